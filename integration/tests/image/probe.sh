# Runs inside the machine of units.rs; what it prints is compared with probe.expected.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3 && tr -d '\r' <&3
}
get() { ask 80 / | head -n 1; }
answered() { get | grep -q 200; }
hung_up() { journalctl --boot --unit aralez | grep -q SIGHUP; }
told() { journalctl --boot --unit aralez | grep -q 'openat2 .* forbidden'; }
asked() { ask 19001 /live | grep -q 200; }
# It answers a moment before systemd knows that it is ready.
mended() { answered && systemctl is-active --quiet aralez; }
within() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; return 1; }
process() { systemctl show --property MainPID --value "$1"; }
tell() { systemctl show --property ActiveState,ExecMainStatus,NRestarts "$1" | sort | paste -sd ' '; }
rights() { grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' "/proc/$(process "$1")/status" | tr '\t' ' ' | paste -sd ' '; }

echo "== start"
systemctl start aralez; echo $?
rights aralez
stat -c %U "/proc/$(process aralez)"

echo "== a file is served"
ask 80 / | tail -n 1

echo "== reload"
systemctl reload aralez; echo $?
within hung_up && echo "read anew"
cp /etc/aralez/main.yaml /root/good
echo 'unknown: 1' >> /etc/aralez/main.yaml
systemctl reload aralez; echo $?
get; tell aralez

echo "== wrong configuration is not tried again"
systemctl restart aralez; echo $?
tell aralez
cp /root/good /etc/aralez/main.yaml

echo "== a restart behind the socket unit refuses nobody"
systemctl start aralez.socket && systemctl start aralez
for _ in $(seq 100); do get; done | sort | uniq -c | tr -s ' ' &
systemctl restart aralez; echo $?
wait

echo "== a crash is mended"
systemctl stop aralez.socket
kill -KILL "$(process aralez)"
within mended && tell aralez

echo "== what forbids files is told"
mkdir /run/systemd/system/aralez.service.d
printf '[Service]\nRestrictSUIDSGID=yes\n' > /run/systemd/system/aralez.service.d/strict.conf
systemctl daemon-reload && systemctl restart aralez
get; within told && echo "told"

echo "== a sidecar waits for its agent as a user of its own"
systemctl start --no-block aralez-sidecar@web-1
within asked && echo "alive"
rights aralez-sidecar@web-1
# systemd.exec(5): from these, DynamicUser= takes one.
[ "$(stat -c %u /run/aralez-sidecar/web-1)" -ge 61184 ] && echo "of its own"
systemctl stop aralez-sidecar@web-1; tell aralez-sidecar@web-1
