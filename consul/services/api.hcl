# `api` listens on 127.0.0.1:9091. Its sidecar: aralez connect -sidecar-for api
service {
  name = "api"
  port = 9091

  connect {
    sidecar_service {
      proxy {
        config {
          protocol = "http"
        }
      }
    }
  }
}
