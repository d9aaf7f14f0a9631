# The reverse proxy as a Connect-native service: it is `edge` in the mesh, calls `api` of mesh.nomad.hcl through its sidecars, and needs none itself.
#
#     nomad job run nomad/native.nomad.hcl
#     curl -H 'Host: api.example' http://CLIENT:8081/

variable "aralez" {
  description = "The program, on every client."
  default     = "/usr/local/bin/aralez"
}

variable "acl" {
  description = "Whether Consul has ACLs: the token of the service's identity is used, which Nomad leaves in the task."
  type        = bool
  default     = false
}

job "native" {
  group "edge" {
    network {
      mode = "host"

      port "http" {
        static = 8081
      }
    }

    service {
      name = "edge"
      port = "http"
      task = "aralez"

      connect {
        native = true
      }
    }

    task "aralez" {
      driver       = "raw_exec"
      kill_timeout = "30s"

      config {
        command = var.aralez
        args    = ["-c", "${NOMAD_TASK_DIR}/main.yaml"]
      }

      template {
        destination = "local/main.yaml"
        change_mode = "noop"
        data        = <<-EOT
          proxy_address_http: 0.0.0.0:{{ env "NOMAD_PORT_http" }}
          upstreams_conf: upstreams.yaml
          grace_period: 25s
        EOT
      }

      template {
        destination = "local/upstreams.yaml"
        change_mode = "noop"
        data        = <<-EOT
          consul:
            servers: ["http://127.0.0.1:8500"]
            service: edge
            ${var.acl ? "token_file: ../secrets/si_token" : ""}
          upstreams:
            api.example:
              paths:
                /: {consul: {service: api, connect: true}}
        EOT
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
