# What the mesh says of its services: both speak HTTP, and only `web` may call `api`.
# Applied at the start of a server (or of `consul agent -dev`), see config_entries in Consul's documentation.
config_entries {
  bootstrap = [
    {
      kind     = "service-defaults"
      name     = "web"
      protocol = "http"
    },
    {
      kind     = "service-defaults"
      name     = "api"
      protocol = "http"
    },
    {
      kind = "service-intentions"
      name = "api"
      sources = [
        {
          name   = "web"
          action = "allow"
        },
        {
          name   = "*"
          action = "deny"
        },
      ]
    },
  ]
}
