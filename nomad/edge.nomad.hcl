# The reverse proxy on every client, before services that Consul knows. The one of this example is there wherever Nomad registers itself with Consul.
#
#     nomad job run nomad/edge.nomad.hcl
#     curl -H 'Host: nomad.example' http://CLIENT:8080/v1/agent/health

variable "aralez" {
  description = "The program, on every client."
  default     = "/usr/local/bin/aralez"
}

variable "port" {
  type    = number
  default = 8080
}

job "edge" {
  type = "system"

  group "edge" {
    network {
      mode = "host"

      port "http" {
        static = var.port
      }
    }

    service {
      name = "edge"
      port = "http"

      check {
        type     = "tcp"
        interval = "10s"
        timeout  = "2s"
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
        change_mode = "restart"
        data        = <<-EOT
          proxy_address_http: 0.0.0.0:{{ env "NOMAD_PORT_http" }}
          upstreams_conf: upstreams.yaml
          grace_period: 25s
        EOT
      }

      # Aralez sees a change of this file by itself.
      template {
        destination = "local/upstreams.yaml"
        change_mode = "noop"
        data        = <<-EOT
          consul:
            servers: ["http://127.0.0.1:8500"]
          upstreams:
            nomad.example:
              paths:
                /: {consul: {service: nomad-client}}
        EOT
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
