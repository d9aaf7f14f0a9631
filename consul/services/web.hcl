# `web` calls `api` on 127.0.0.1:9191. Its sidecar: aralez connect -sidecar-for web
service {
  name = "web"
  port = 9090

  connect {
    sidecar_service {
      proxy {
        config {
          protocol = "http"
        }
        upstreams {
          destination_name = "api"
          local_bind_port  = 9191
        }
      }
    }
  }
}
