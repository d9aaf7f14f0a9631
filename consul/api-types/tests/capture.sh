#!/usr/bin/env bash
# Makes the answers under captured/ again: starts a dev agent on free loopback ports, registers a small mesh with every
# kind of setting the crate knows, and saves what the agent says. Needs bash, curl, openssl, python3 and a Consul agent
# (CONSUL_BIN, or `consul` on the PATH).
set -euo pipefail
out="$(cd "$(dirname "$0")" && pwd)/captured"
work="$(mktemp -d)"
agent=
finish() {
    [ -z "$agent" ] || kill "$agent" 2>/dev/null || true
    [ -z "$agent" ] || wait "$agent" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

read -r http server lan wan grpc sidecar expose < <(python3 - <<'PY'
import socket
held = [socket.socket() for _ in range(7)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))
PY
)
"${CONSUL_BIN:-consul}" agent -dev -node=node-1 -bind=127.0.0.1 -http-port="$http" -server-port="$server" \
    -serf-lan-port="$lan" -serf-wan-port="$wan" -dns-port=-1 -grpc-port=-1 -grpc-tls-port="$grpc" -log-level=warn \
    -hcl "ports { sidecar_min_port = $sidecar sidecar_max_port = $((sidecar + 9)) expose_min_port = $expose expose_max_port = $((expose + 9)) }" \
    >"$work/agent.log" 2>&1 &
agent=$!
api="http://127.0.0.1:$http/v1"

call() { # METHOD PATH [BODY]: prints the answer; fails on any status but 2xx and tells what the agent said
    curl -sS --fail-with-body -X "$1" -o "$work/reply" "$api/$2" ${3:+--data-binary "$3"} || {
        echo "$1 $2: $(cat "$work/reply")" >&2
        return 1
    }
    cat "$work/reply"
}
until_says() { # PATH PATTERN: waits until the answer, white space taken out, matches; at most 30 s
    for _ in $(seq 150); do
        curl -s "$api/$1" | tr -d '[:space:]' | grep -- "$2" >/dev/null && return
        sleep 0.2
    done
    echo "$1 never said $2" >&2
    return 1
}
save() { # NAME METHOD PATH [BODY]: saves headers and body, the body sorted and with private keys replaced
    curl -sS -X "$2" -D "$work/headers" -o "$work/body" "$api/$3" ${4:+--data-binary "$4"}
    python3 - "$work" "$out/$1" <<'PY'
import json, subprocess, sys
work, out = sys.argv[1:]
reply = json.load(open(work + "/body"))
if isinstance(reply, dict) and "PrivateKeyPEM" in reply:
    reply["PrivateKeyPEM"] = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"], check=True, capture_output=True, text=True
    ).stdout
json.dump(reply, open(out + ".json", "w"), indent=1, sort_keys=True, ensure_ascii=False)
open(out + ".json", "a").write("\n")
PY
}
save_headers() { # NAME METHOD PATH
    curl -sS -X "$2" -D - -o /dev/null "$api/$3" | tr -d '\r' | grep -v '^$' >"$out/$1.headers"
}

until_says status/leader ':'
until_says agent/connect/ca/roots '"Active":true'

entry() { call PUT config "$1" >/dev/null; }
entry '{"Kind": "proxy-defaults", "Name": "global",
  "Config": {"local_connect_timeout_ms": 1200, "envoy_prometheus_bind_addr": "127.0.0.1:9102", "house_rule": true},
  "MeshGateway": {"Mode": "local"}, "AccessLogs": {"Enabled": true, "Type": "stderr", "JSONFormat": "{\"code\":\"%RESPONSE_CODE%\"}"}}'
entry '{"Kind": "mesh", "AllowEnablingPermissiveMutualTLS": true,
  "TLS": {"Incoming": {"TLSMinVersion": "TLSv1_2", "CipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
          "Outgoing": {"TLSMinVersion": "TLSv1_2", "TLSMaxVersion": "TLSv1_3"}},
  "HTTP": {"SanitizeXForwardedClientCert": true, "Incoming": {"RequestNormalization": {"MergeSlashes": true,
    "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD", "HeadersWithUnderscoresAction": "REJECT_REQUEST"}}}}'
entry '{"Kind": "service-defaults", "Name": "web", "Protocol": "http", "MutualTLSMode": "permissive", "MaxInboundConnections": 7,
  "LocalRequestTimeoutMs": 2500, "Meta": {"team": "shop"}, "UpstreamConfig": {
    "Defaults": {"ConnectTimeoutMs": 2000, "MeshGateway": {"Mode": "remote"}},
    "Overrides": [{"Name": "api", "ConnectTimeoutMs": 900, "Limits": {"MaxConnections": 9, "MaxPendingRequests": 0},
      "PassiveHealthCheck": {"Interval": "10s", "MaxFailures": 9, "EnforcingConsecutive5xx": 50, "BaseEjectionTime": "40s"}}]}}'
for name in db api cache shop old; do entry '{"Kind": "service-defaults", "Name": "'$name'", "Protocol": "http"}'; done
entry '{"Kind": "service-resolver", "Name": "db", "ConnectTimeout": "3s", "RequestTimeout": "7s", "DefaultSubset": "v1",
  "Subsets": {"v1": {"Filter": "Service.Meta.version == v1", "OnlyPassing": true}, "v2": {"Filter": "Service.Meta.version == v2"}},
  "Failover": {"v1": {"Targets": [{"ServiceSubset": "v2"}, {"Service": "cache"}]}, "*": {"Service": "cache"}},
  "LoadBalancer": {"Policy": "ring_hash", "RingHashConfig": {"MinimumRingSize": 64, "MaximumRingSize": 128},
    "HashPolicies": [{"Field": "header", "FieldValue": "x-u"},
      {"Field": "cookie", "FieldValue": "ck", "CookieConfig": {"TTL": "30s", "Path": "/p"}}, {"SourceIP": true, "Terminal": true}]}}'
entry '{"Kind": "service-resolver", "Name": "old", "Redirect": {"Service": "api"}}'
entry '{"Kind": "service-resolver", "Name": "cache", "LoadBalancer": {"Policy": "least_request", "LeastRequestConfig": {"ChoiceCount": 3}}}'
entry '{"Kind": "service-splitter", "Name": "api", "Splits": [
  {"Weight": 99.5, "RequestHeaders": {"Set": {"x-share": "big"}}}, {"Weight": 0.5, "Service": "db", "ServiceSubset": "v2"}]}'
entry '{"Kind": "service-router", "Name": "shop", "Routes": [
  {"Match": {"HTTP": {"PathPrefix": "/admin", "CaseInsensitive": true, "Methods": ["GET", "PUT"],
     "Header": [{"Name": "x-debug", "Exact": "1", "Invert": true}], "QueryParam": [{"Name": "v", "Regex": "[0-9]+"}]}},
   "Destination": {"Service": "db", "ServiceSubset": "v2", "PrefixRewrite": "/", "RequestTimeout": "15s", "IdleTimeout": "-1s",
     "NumRetries": 3, "RetryOnConnectFailure": true, "RetryOnStatusCodes": [503], "RetryOn": ["reset"],
     "RequestHeaders": {"Add": {"x-a": "1"}, "Remove": ["x-b"]}, "ResponseHeaders": {"Set": {"x-c": "2"}}}}]}'
entry '{"Kind": "jwt-provider", "Name": "okta", "Issuer": "okta", "JSONWebKeySet": {"Local": {"JWKS": "eyJrZXlzIjpbXX0="}}}'
entry '{"Kind": "jwt-provider", "Name": "remote", "Issuer": "https://issuer.example", "Audiences": ["shop"], "ClockSkewSeconds": 10,
  "Locations": [{"Header": {"Name": "x-token", "ValuePrefix": "Token ", "Forward": true}}, {"Cookie": {"Name": "t"}}],
  "Forwarding": {"HeaderName": "x-claims", "PadForwardPayloadHeader": true}, "CacheConfig": {"Size": 20},
  "JSONWebKeySet": {"Remote": {"URI": "https://issuer.example/keys", "RequestTimeoutMs": 1500, "CacheDuration": "10m",
    "FetchAsynchronously": true, "RetryPolicy": {"NumRetries": 2, "RetryPolicyBackOff": {"BaseInterval": "2s", "MaxInterval": "9s"}},
    "JWKSCluster": {"DiscoveryType": "STATIC", "ConnectTimeout": "3s", "TLSCertificates": {"TrustedCA": {"Filename": "ca.pem"}}}}}}'
entry '{"Kind": "service-intentions", "Name": "db", "JWT": {"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["perms", "role"], "Value": "admin"}]}]},
  "Sources": [
    {"Name": "web", "Description": "reads only", "Permissions": [
      {"Action": "deny", "HTTP": {"PathPrefix": "/admin"}},
      {"Action": "allow", "HTTP": {"PathRegex": "/a.*", "Methods": ["GET"],
        "Header": [{"Name": "x", "Contains": "y", "Invert": true, "IgnoreCase": true}]}, "JWT": {"Providers": [{"Name": "okta"}]}}]},
    {"Name": "far", "Peer": "cluster2", "Action": "allow"}, {"Name": "*", "Action": "deny"}]}'
entry '{"Kind": "service-intentions", "Name": "*", "Sources": [{"Name": "*", "Action": "allow"}]}'

register() { call PUT agent/service/register "$1"; }
register '{"Name": "cache", "Port": 1, "Connect": {"Native": true}, "Weights": {"Passing": 10, "Warning": 2}}'
register '{"Name": "api", "Port": 2, "Address": "127.0.0.1", "Connect": {"SidecarService": {"Proxy": {"Mode": "direct"}}}}'
for v in v1 v2; do
    register '{"ID": "db-'$v'", "Name": "db", "Port": 3, "Address": "127.0.0.1", "Meta": {"version": "'$v'"}, "Tags": ["primary"],
      "TaggedAddresses": {"wan": {"Address": "192.0.2.1", "Port": 443}}, "Locality": {"Region": "eu", "Zone": "a"},
      "Connect": {"SidecarService": {"Checks": [{"CheckID": "beat-'$v'", "Name": "beat", "TTL": "1h", "Status": "passing"}]}}}'
done
call PUT 'agent/check/warn/beat-v2?note=slow'
register '{"ID": "web-1", "Name": "web", "Port": 4, "Address": "127.0.0.1",
  "Checks": [{"CheckID": "web-http", "HTTP": "http://127.0.0.1:4/health", "Interval": "1h", "Timeout": "1s"}],
  "Connect": {"SidecarService": {"Proxy": {
    "Config": {"bind_address": "127.0.0.1", "local_idle_timeout_ms": "60000", "handshake_timeout_ms": 8000},
    "Expose": {"Checks": true, "Paths": [{"Path": "/health", "LocalPathPort": 4, "ListenerPort": 5, "Protocol": "http2"}]},
    "Upstreams": [
      {"DestinationName": "api", "LocalBindPort": 9191},
      {"DestinationName": "db", "LocalBindSocketPath": "db.sock", "LocalBindSocketMode": "0600", "MeshGateway": {"Mode": "none"},
       "Config": {"connect_timeout_ms": 700, "limits": {"max_connections": 3, "max_concurrent_requests": "5"}, "color": "blue",
         "passive_health_check": {"interval": "22s", "max_failures": 4, "base_ejection_time": "1m30s"}}},
      {"DestinationType": "prepared_query", "DestinationName": "any-db", "LocalBindPort": 9192, "LocalBindAddress": "127.0.0.2"}]}}}}'
call POST peering/token '{"PeerName": "cluster2", "ServerExternalAddresses": ["192.0.2.9:8503"]}' >/dev/null
call POST query '{"Name": "any-db", "Service": {"Service": "db", "Connect": true}}' >/dev/null

until_says 'health/connect/db' '"Status":"warning"'
until_says 'health/connect/cache' '"Native":true'
until_says 'agent/service/web-1-sidecar-proxy' 'MaxPendingRequests'
until_says 'agent/checks' '"ExposedPort":[1-9]'

save agent-service GET agent/service/web-1-sidecar-proxy
save_headers agent-service GET agent/service/web-1-sidecar-proxy
save agent-services GET agent/services
save agent-checks GET agent/checks
save roots GET agent/connect/ca/roots
save leaf GET agent/connect/ca/leaf/web
save_headers leaf GET agent/connect/ca/leaf/web
save intentions GET 'connect/intentions/match?by=destination&name=db'
save intentions-none GET 'connect/intentions/match?by=destination&name=api'
probe='"ClientCertURI": "spiffe://x.consul/ns/no-such-namespace/dc/dc1/svc/x", "ClientCertSerial": ""'
save authorize-default POST agent/connect/authorize "{\"Target\": \"web\", $probe}"
domain="$(call GET agent/connect/ca/roots | python3 -c 'import json, sys; print(json.load(sys.stdin)["TrustDomain"])')"
save authorize-matched POST agent/connect/authorize "{\"Target\": \"db\", \"ClientCertURI\": \"spiffe://$domain/ns/default/dc/dc1/svc/batch\", \"ClientCertSerial\": \"\"}"
save chain-default POST discovery-chain/nobody '{}'
save chain-overridden POST discovery-chain/db '{"OverrideProtocol": "tcp", "OverrideConnectTimeout": "700ms", "OverrideMeshGateway": {"Mode": "remote"}}'
save chain-resolver POST discovery-chain/db '{}'
save chain-redirect POST discovery-chain/old '{}'
save chain-splitter POST discovery-chain/api '{}'
save chain-router POST discovery-chain/shop '{}'
save health GET health/connect/db
save_headers health-streaming GET 'health/connect/db?index=1&cached'
save health-native GET health/connect/cache
save health-empty GET health/connect/nobody
save mesh GET config/mesh/mesh
save service-defaults GET config/service-defaults/web
save proxy-defaults GET config/proxy-defaults/global
save jwt-local GET config/jwt-provider/okta
save jwt-remote GET config/jwt-provider/remote
save peering GET peering/cluster2
save peerings GET peerings
save mesh-gateways GET internal/federation-states/mesh-gateways
save_headers config-absent GET config/service-defaults/nobody
save prepared-query GET 'query/any-db/execute?connect=true'
