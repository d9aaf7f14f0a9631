# Two services in Consul's mesh, each with Aralez as its sidecar: `web` calls `api`, of which there are two.
#
#     nomad job run nomad/mesh.nomad.hcl
#     consul intention create -replace -deny web api

variable "aralez" {
  description = "The program, on every client. The exec driver sees /usr of the host."
  default     = "/usr/local/bin/aralez"
}

variable "driver" {
  description = "raw_exec or exec"
  default     = "raw_exec"
}

variable "upstreams" {
  description = "What web calls, and where on 127.0.0.1. Adding one changes the running sidecar in place."
  type        = map(number)
  default     = { api = 5000 }
}

job "mesh" {
  group "api" {
    count          = 2
    shutdown_delay = "5s" # callers learn that an instance leaves before anything of it ends

    network {
      mode = "bridge"
    }

    service {
      name = "api"
      port = "9001" # the app listens on 127.0.0.1:9001 in the network of its allocation

      connect {
        sidecar_service {
          proxy {
            config {
              protocol = "http"
            }
          }
        }

        sidecar_task {
          driver       = var.driver
          kill_timeout = "30s" # more than Aralez drains; a client's max_kill_timeout is 30 s unless it says otherwise

          config {
            command = var.aralez
            args    = ["connect", "-shutdown-grace-period-seconds", "25"]
          }

          resources {
            cpu    = 100
            memory = 64
          }
        }
      }
    }

    task "app" {
      driver       = "raw_exec"
      kill_timeout = "20s" # more than a request takes

      config {
        command = "python3"
        args    = ["${NOMAD_TASK_DIR}/api.py"]
      }

      template {
        destination = "local/api.py"
        data        = <<-EOT
          import os, signal, threading, time
          from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

          class Api(BaseHTTPRequestHandler):
              def do_GET(self):
                  self.send_response(200)
                  self.end_headers()
                  if self.path == "/slow":
                      time.sleep(8)
                  self.wfile.write(b"api-" + os.environ["NOMAD_ALLOC_INDEX"].encode())

          # Nomad's SIGINT: nothing new, and what has begun is answered.
          server = ThreadingHTTPServer(("127.0.0.1", 9001), Api)
          server.daemon_threads = False
          signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=server.shutdown).start())
          server.serve_forever()
          server.server_close()
        EOT
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }

  group "web" {
    network {
      mode = "bridge"

      port "http" {
        to = 9100
      }
    }

    service {
      name = "web"
      port = "9100"

      connect {
        sidecar_service {
          proxy {
            config {
              protocol = "http"
            }

            dynamic "upstreams" {
              for_each = var.upstreams

              content {
                destination_name = upstreams.key
                local_bind_port  = upstreams.value

                config {
                  protocol = "http"
                }
              }
            }
          }
        }

        sidecar_task {
          driver       = var.driver
          kill_timeout = "30s"

          config {
            command = var.aralez
            args    = ["connect", "-shutdown-grace-period-seconds", "25"]
          }

          resources {
            cpu    = 100
            memory = 64
          }
        }
      }
    }

    # GET /5000/path is GET /path at the upstream on 127.0.0.1:5000.
    task "app" {
      driver = "raw_exec"

      config {
        command = "python3"
        args    = ["${NOMAD_TASK_DIR}/web.py"]
      }

      template {
        destination = "local/web.py"
        data        = <<-EOT
          from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
          from urllib.error import HTTPError, URLError
          from urllib.request import urlopen

          class Web(BaseHTTPRequestHandler):
              def do_GET(self):
                  try:
                      answer = urlopen("http://127.0.0.1:" + self.path[1:])
                  except HTTPError as refused:
                      answer = refused
                  except URLError as failed:
                      self.send_error(502, str(failed))
                      return
                  self.send_response(answer.status)
                  self.end_headers()
                  self.wfile.write(answer.read())

          ThreadingHTTPServer(("0.0.0.0", 9100), Web).serve_forever()
        EOT
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
