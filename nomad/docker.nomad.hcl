# Aralez from an image, as the sidecar of one service (`api`) and in Envoy's place (`web`).
#
# `web` says nothing about its sidecar. It is Aralez where the client's configuration says so, for all jobs of that client:
#
#     client { meta { "connect.sidecar_image" = "aralez:0.1.0" } }

variable "image" {
  description = "The image, as the Dockerfile of this repository makes it."
  default     = "aralez:0.1.0"
}

job "mesh-docker" {
  group "api" {
    network {
      mode = "bridge"
    }

    service {
      name = "api"
      port = "9001"

      connect {
        sidecar_service {}

        sidecar_task {
          driver       = "docker"
          kill_timeout = "30s"

          config {
            image = var.image
            args  = ["connect", "-shutdown-grace-period-seconds", "25"]
          }

          resources {
            cpu    = 100
            memory = 64
          }
        }
      }
    }

    task "app" {
      driver = "docker"

      config {
        image   = "python:3-slim"
        command = "python3"
        args    = ["-m", "http.server", "--bind", "127.0.0.1", "9001"]
      }
    }
  }

  group "web" {
    network {
      mode = "bridge"
    }

    service {
      name = "web"
      port = "9100"

      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "api"
              local_bind_port  = 5000
            }
          }
        }
      }
    }

    task "app" {
      driver = "docker"

      config {
        image   = "python:3-slim"
        command = "python3"
        args    = ["-c", "import time, urllib.request\nwhile True:\n  print(urllib.request.urlopen('http://127.0.0.1:5000/').status)\n  time.sleep(5)"]
      }
    }
  }
}
