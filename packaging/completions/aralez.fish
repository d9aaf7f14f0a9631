# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_aralez_global_optspecs
    string join \n v/version c/conf= t/test u/upgrade d/daemon admin-bind= h/help
end

function __fish_aralez_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_aralez_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_aralez_using_subcommand
    set -l cmd (__fish_aralez_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c aralez -n "__fish_aralez_needs_command" -s c -l conf -d 'The main configuration file; or an Envoy bootstrap: be the Connect sidecar that it names, with Envoy\'s flags' -r -F
complete -c aralez -n "__fish_aralez_needs_command" -l admin-bind -d 'Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]' -r
complete -c aralez -n "__fish_aralez_needs_command" -s v -l version -d 'Print the version'
complete -c aralez -n "__fish_aralez_needs_command" -s t -l test -d 'Only check the files, as aralez check does'
complete -c aralez -n "__fish_aralez_needs_command" -s u -l upgrade -d 'Take the listeners over from the running process, by the socket that upgrade_sock names'
complete -c aralez -n "__fish_aralez_needs_command" -s d -l daemon -d 'Run in the background'
complete -c aralez -n "__fish_aralez_needs_command" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "serve" -d 'Be a reverse proxy as a main.yaml says'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "check" -d 'Check main.yaml files with all that they name, or what a sidecar would meet at the live agent: every problem at once'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "schema" -d 'Print the JSON Schema of a configuration file'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "connect" -d 'Be the Connect sidecar of a service that is registered with the local Consul agent; in a Nomad task it finds out by itself whose'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "dev" -d 'Run a whole mesh in this process: a catalog and a CA of its own, sidecars and demo services; no Consul needed'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "explain" -d 'Say what would become of a request, and why: at an upstream of a sidecar, or by the intentions of a service'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "completions" -d 'Print the completions of the command line for a shell'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "man" -d 'Print the manual as man(7) source: aralez man | man -l -'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "status" -d 'Say whether a running one is ready, what it lacks, and where it listens: exit code 0 if it is, else 1'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "wait" -d 'Wait until a running one, or one that is about to start, is ready: exit code 0 once it is, 1 if it is not in time'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "drain" -d 'Let a running one take no new work, finish what it has, and end; a second time, end at once'
complete -c aralez -n "__fish_aralez_needs_command" -f -a "version" -d 'Print the version'
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s c -l conf -d 'The main configuration file; or an Envoy bootstrap: be the Connect sidecar that it names, with Envoy\'s flags' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand serve" -l admin-bind -d 'Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]' -r
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s l -l log-level -r
complete -c aralez -n "__fish_aralez_using_subcommand serve" -l concurrency -r
complete -c aralez -n "__fish_aralez_using_subcommand serve" -l log-path -r -F
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s t -l test -d 'Only check the files, as aralez check does'
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s u -l upgrade -d 'Take the listeners over from the running process, by the socket that upgrade_sock names'
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s d -l daemon -d 'Run in the background'
complete -c aralez -n "__fish_aralez_using_subcommand serve" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand check" -s c -l conf -d 'A main.yaml, as aralez -c takes it' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l diff -d 'Say what a reload of the one file would change: of the process that serves it, by its configuration API; or of another main.yaml' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l format -d 'How to print what is found' -r -f -a "text\t''
json\t''"
complete -c aralez -n "__fish_aralez_using_subcommand check" -l timeout-seconds -d 'How long to wait for the agent, or the cluster, in all' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l sidecar-for -d 'Be the proxy registered for this service instance, by its id [env: CONNECT_SIDECAR_FOR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l proxy-id -d 'Be the proxy with this id; wins over -sidecar-for [env: CONNECT_PROXY_ID]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l http-addr -d 'The agent: host:port, http://…, https://… or unix://PATH [default: 127.0.0.1:8500] [env: CONSUL_HTTP_ADDR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l token -d 'ACL token; better in the variable or a file, where other users cannot see it [env: CONSUL_HTTP_TOKEN]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l token-file -d 'File with the ACL token; wins over -token [env: CONSUL_HTTP_TOKEN_FILE]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l ca-file -d 'CA of the agent\'s certificate, PEM [env: CONSUL_CACERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l ca-path -d 'Folder of such CAs [env: CONSUL_CAPATH]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l client-cert -d 'Client certificate to show the agent, PEM [env: CONSUL_CLIENT_CERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l client-key -d 'Key of the client certificate, PEM [env: CONSUL_CLIENT_KEY]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand check" -l tls-server-name -d 'Name to expect in the agent\'s certificate [env: CONSUL_TLS_SERVER_NAME]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l namespace -d 'Namespace of the service, Consul Enterprise [env: CONSUL_NAMESPACE]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l partition -d 'Admin partition of the service, Consul Enterprise [env: CONSUL_PARTITION]' -r
complete -c aralez -n "__fish_aralez_using_subcommand check" -l default-intention-policy -d 'What callers may do that no intention names, for agents that cannot tell; unset, they are then denied' -r -f -a "allow\t''
deny\t''"
complete -c aralez -n "__fish_aralez_using_subcommand check" -l cluster -d 'Ask the cluster of Kubernetes that the one file\'s routes name: rights that lack, Ingresses and Services that cannot be used'
complete -c aralez -n "__fish_aralez_using_subcommand check" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l sidecar-for -d 'Be the proxy registered for this service instance, by its id [env: CONNECT_SIDECAR_FOR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l proxy-id -d 'Be the proxy with this id; wins over -sidecar-for [env: CONNECT_PROXY_ID]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l http-addr -d 'The agent: host:port, http://…, https://… or unix://PATH [default: 127.0.0.1:8500] [env: CONSUL_HTTP_ADDR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l token -d 'ACL token; better in the variable or a file, where other users cannot see it [env: CONSUL_HTTP_TOKEN]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l token-file -d 'File with the ACL token; wins over -token [env: CONSUL_HTTP_TOKEN_FILE]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l ca-file -d 'CA of the agent\'s certificate, PEM [env: CONSUL_CACERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l ca-path -d 'Folder of such CAs [env: CONSUL_CAPATH]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l client-cert -d 'Client certificate to show the agent, PEM [env: CONSUL_CLIENT_CERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l client-key -d 'Key of the client certificate, PEM [env: CONSUL_CLIENT_KEY]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l tls-server-name -d 'Name to expect in the agent\'s certificate [env: CONSUL_TLS_SERVER_NAME]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l namespace -d 'Namespace of the service, Consul Enterprise [env: CONSUL_NAMESPACE]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l partition -d 'Admin partition of the service, Consul Enterprise [env: CONSUL_PARTITION]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l default-intention-policy -d 'What callers may do that no intention names, for agents that cannot tell; unset, they are then denied' -r -f -a "allow\t''
deny\t''"
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l envoy-ready-bind-address -d 'Address of one more listener that serves /ready only; needs the port too' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l envoy-ready-bind-port -d 'Port of that listener' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l prometheus-scrape-path -d 'Path of the metrics on the listener that the setting envoy_prometheus_bind_addr asks for [default: /metrics]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l admin-bind -d 'Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l threads -d 'Worker threads of the data plane [default: 1] [env: ARALEZ_THREADS]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l shutdown-grace-period-seconds -d 'How long open connections may go on after SIGTERM [default: 30] [env: ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS]' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l log-level -d 'How much is logged: trace, debug, info, warn, error or off' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l log-json -d 'Log JSON lines' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l error-log -d 'File for the log instead of standard error; opened anew on SIGUSR1' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l user -d 'User to become once the sockets that are known at start are bound' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l group -d 'Group to become; without it the user\'s own' -r
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l pid-file -d 'File for the process id' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -l upgrade-sock -d 'Unix socket on which a new process, started with -upgrade, takes the listeners over' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand connect" -s d -l daemon -d 'Run in the background'
complete -c aralez -n "__fish_aralez_using_subcommand connect" -s u -l upgrade -d 'Take the listeners over from the process that listens on -upgrade-sock'
complete -c aralez -n "__fish_aralez_using_subcommand connect" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l admin-bind -d 'Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l threads -d 'Worker threads of the data plane [default: 1] [env: ARALEZ_THREADS]' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l shutdown-grace-period-seconds -d 'How long open connections may go on after SIGTERM [default: 30] [env: ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS]' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l log-level -d 'How much is logged: trace, debug, info, warn, error or off' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l log-json -d 'Log JSON lines' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l error-log -d 'File for the log instead of standard error; opened anew on SIGUSR1' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l user -d 'User to become once the sockets that are known at start are bound' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l group -d 'Group to become; without it the user\'s own' -r
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l pid-file -d 'File for the process id' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand dev" -l upgrade-sock -d 'Unix socket on which a new process, started with -upgrade, takes the listeners over' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand dev" -s d -l daemon -d 'Run in the background'
complete -c aralez -n "__fish_aralez_using_subcommand dev" -s u -l upgrade -d 'Take the listeners over from the process that listens on -upgrade-sock'
complete -c aralez -n "__fish_aralez_using_subcommand dev" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l from -d 'The service that calls: explain what the intentions of the service named by -to say' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l to -d 'The service that is called' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l upstream -d 'The upstream of the sidecar, by its destination; without it all are explained' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -s H -l header -d 'A header of the request; may be given several times' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l timeout-seconds -d 'How long to wait for the agent' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l sidecar-for -d 'Be the proxy registered for this service instance, by its id [env: CONNECT_SIDECAR_FOR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l proxy-id -d 'Be the proxy with this id; wins over -sidecar-for [env: CONNECT_PROXY_ID]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l http-addr -d 'The agent: host:port, http://…, https://… or unix://PATH [default: 127.0.0.1:8500] [env: CONSUL_HTTP_ADDR]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l token -d 'ACL token; better in the variable or a file, where other users cannot see it [env: CONSUL_HTTP_TOKEN]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l token-file -d 'File with the ACL token; wins over -token [env: CONSUL_HTTP_TOKEN_FILE]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l ca-file -d 'CA of the agent\'s certificate, PEM [env: CONSUL_CACERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l ca-path -d 'Folder of such CAs [env: CONSUL_CAPATH]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l client-cert -d 'Client certificate to show the agent, PEM [env: CONSUL_CLIENT_CERT]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l client-key -d 'Key of the client certificate, PEM [env: CONSUL_CLIENT_KEY]' -r -F
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l tls-server-name -d 'Name to expect in the agent\'s certificate [env: CONSUL_TLS_SERVER_NAME]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l namespace -d 'Namespace of the service, Consul Enterprise [env: CONSUL_NAMESPACE]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l partition -d 'Admin partition of the service, Consul Enterprise [env: CONSUL_PARTITION]' -r
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l default-intention-policy -d 'What callers may do that no intention names, for agents that cannot tell; unset, they are then denied' -r -f -a "allow\t''
deny\t''"
complete -c aralez -n "__fish_aralez_using_subcommand explain" -l json -d 'Print JSON'
complete -c aralez -n "__fish_aralez_using_subcommand explain" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand completions" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand man" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand status" -l admin -d 'The admin API of the running one: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad\'s bootstrap, else localhost:19000]' -r
complete -c aralez -n "__fish_aralez_using_subcommand status" -l format -d 'How to print it' -r -f -a "table\t''
json\t''"
complete -c aralez -n "__fish_aralez_using_subcommand status" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand wait" -l admin -d 'The admin API of the one to wait for: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad\'s bootstrap, else localhost:19000]' -r
complete -c aralez -n "__fish_aralez_using_subcommand wait" -l timeout-seconds -d 'How long to wait' -r
complete -c aralez -n "__fish_aralez_using_subcommand wait" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand drain" -l admin -d 'The admin API of the running one: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad\'s bootstrap, else localhost:19000]' -r
complete -c aralez -n "__fish_aralez_using_subcommand drain" -s h -l help -d 'Print help'
complete -c aralez -n "__fish_aralez_using_subcommand version" -s h -l help -d 'Print help'
