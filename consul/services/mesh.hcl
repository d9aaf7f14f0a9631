# What the mesh says of its services: both speak HTTP. Who may call whom is said by `consul intention create`.
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
  ]
}
