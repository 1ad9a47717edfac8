#!/bin/bash
# Rehearses `vagrant up` without virtual machines: rehearse.sh [SOURCE [TARGET_DIR]], as root.
#
# Three machines that are copies of this one (an overlay over its files, in memory) on a network of their own;
# provision.sh makes nodes of them, and their Swarm is looked at from where the host would be. All of it is in
# namespaces that end with this script, so nothing is left of it however it ends.
# Prints `ok CASE` or `not ok CASE: WHY`; exit code 3 and a reason when this machine cannot do it.
# shellcheck disable=SC2317 # functions are called by name, by `check` and by `boot`'s own shell
set -euo pipefail

source=$(realpath "${1:-$(dirname "$0")/..}")
target=$(realpath "${2:-$source/target}")
cgroup=portico-rehearsal

cannot() {
    printf '%s\n' "$*"
    exit 3
}

if [ $$ != 1 ]; then
    [ "$(id -u)" = 0 ] || cannot "needs root"
    for program in dockerd docker ip nsenter unshare python3 curl; do
        command -v "$program" >/dev/null || cannot "$program is not installed"
    done
    [ -x "$HOME/.cargo/bin/cargo" ] || cannot "$HOME/.cargo/bin/cargo is not there, and the machines cannot fetch it"
    unshare --mount --pid --fork --kill-child --net --ipc --uts "$0" "$source" "$target" &
    machines=$!
    # unshare itself would sleep through anything milder.
    trap 'kill -KILL $machines' INT TERM HUP
    code=0
    wait "$machines" || code=$?
    # Containers' cgroups outlive them, and no namespace takes them away. After a kill they are empty a little later.
    for _ in $(seq 50); do
        find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
        [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "$cgroup" -print -quit)" ] || break
        sleep 0.1
    done
    exit "$code"
fi

# From here on: process 1 of its own namespaces.

mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /mnt
unset "${!http_@}" "${!https_@}" "${!HTTP_@}" "${!HTTPS_@}" all_proxy ALL_PROXY "${!DOCKER_@}"
export PORTICO_SOURCE=$source CARGO_TARGET_DIR=$target
# The machines have no way out: what is not there must be a message, not a wait.
export CARGO_NET_OFFLINE=true RUSTUP_AUTO_INSTALL=0

lan() {
    ip link add lan type bridge
    ip address add 192.168.56.1/24 dev lan
    ip link set lan up
    ip link set lo up
}

# Copies of every file system that matters; what a machine writes is kept in memory.
copy_files() {
    local folder=$1 root=$1/root mount
    while read -r mount; do
        mkdir -p "$folder/upper$mount" "$folder/work$mount"
        mount -t overlay overlay "$root$mount" \
            -o "lowerdir=$mount,upperdir=$folder/upper$mount,workdir=$folder/work$mount"
    done < <(stat --format=%m / /etc /usr /var "$HOME" "$source" "$target" | sort -u)
}

# What a machine has of its own, besides files.
fill() {
    local root=$1
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t bpf bpf "$root/sys/fs/bpf"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir -p "$root/var/lib/docker"
    # An engine's own overlays cannot lie on one.
    mount -t tmpfs tmpfs "$root/var/lib/docker"
    # This machine's settings are not the new one's.
    rm -rf "$root/etc/docker" "$root$HOME/.docker" "$root/var/lib/portico"
    cat >"$root/etc/systemd/system/docker.service" <<UNIT
[Service]
ExecStart=/usr/sbin/dockerd --host unix:///run/docker.sock --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /$cgroup
ExecStartPost=/usr/bin/timeout 60 sh -c 'until docker version; do sleep 0.2; done'
UNIT
    cat >"$root/usr/bin/systemctl.rehearsal" <<'SHIM'
#!/bin/bash
# Stands in for systemd: starts the command of a unit and lets it run.
set -euo pipefail
verb=$1
shift
field() { sed -n "s/^$1=//p" "/etc/systemd/system/$unit"; }
for unit in "$@"; do
    case "$verb $unit" in
    "enable --now") verb=start ;;
    "enable "*) ;;
    "start "* | "restart "*)
        if [ -e "/run/$unit.pid" ] && kill -0 "$(cat "/run/$unit.pid")" 2>/dev/null; then
            [ "$verb" = restart ] || continue
            kill "$(cat "/run/$unit.pid")"
            while kill -0 "$(cat "/run/$unit.pid")" 2>/dev/null; do sleep 0.1; done
        fi
        for folder in $(field RuntimeDirectory); do mkdir -p "/run/$folder"; done
        for folder in $(field StateDirectory); do mkdir -p "/var/lib/$folder"; done
        read -ra words <<<"$(field ExecStart)"
        setsid "${words[@]}" </dev/null >>"/var/log/$unit.log" 2>&1 &
        echo $! >"/run/$unit.pid"
        post=$(field ExecStartPost)
        bash -c "$post" >/dev/null 2>&1
        ;;
    *) echo "systemctl: the rehearsal does not know $verb $unit" >&2 && exit 1 ;;
    esac
done
SHIM
    chmod 755 "$root/usr/bin/systemctl.rehearsal"
    mv "$root/usr/bin/systemctl.rehearsal" "$root/usr/bin/systemctl"
}

# Becomes the machine NAME; runs in namespaces of its own.
boot() {
    local name=$1 folder=/mnt/$1 root=/mnt/$1/root
    hostname "$name"
    copy_files "$folder"
    fill "$root"
    ip link set lo up
    cd "$root"
    mkdir -p mnt
    touch /mnt/"$name"/booted
    pivot_root . mnt
    umount --lazy /mnt
    exec sleep infinity
}
export -f boot copy_files fill
export source target cgroup

declare -A pid
address_of() { echo "192.168.56.10${1#node-}"; }

start() {
    local name=$1
    mkdir -p "/mnt/$name/root"
    # shellcheck disable=SC2016 # expanded by that shell
    unshare --net --mount --uts bash -euo pipefail -c 'boot "$1"' bash "$name" &
    pid[$name]=$!
    for _ in $(seq 100); do
        [ -e "/mnt/$name/booted" ] && break
        kill -0 "${pid[$name]}" 2>/dev/null || cannot "a copy of this machine's files cannot be mounted (see above)"
        sleep 0.1
    done
    [ -e "/mnt/$name/booted" ]
    ip link add "$name" type veth peer name eth0 netns "${pid[$name]}"
    ip link set "$name" master lan up
    inside "$name" ip address add "$(address_of "$name")/24" dev eth0
    inside "$name" ip link set eth0 up
}

# inside NAME COMMAND...
inside() {
    local name=$1
    shift
    timeout --kill-after=5 90 nsenter --target "${pid[$name]}" --mount --uts --net --root --wd=/ "$@"
}

failed=0
# check CASE COMMAND...: what the command printed is shown if it fails.
check() {
    local name=$1 printed
    shift
    if printed=$("$@" 2>&1); then
        echo "ok $name"
    else
        echo "not ok $name: $(tail -n 25 <<<"$printed" | tr '\n' '\r')"
        failed=1
    fi
}

# eventually SECONDS COMMAND...: prints what the last attempt printed.
eventually() {
    local end=$((SECONDS + $1)) printed
    shift
    until printed=$("$@" 2>&1); do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "$printed"
            return 1
        fi
        sleep 0.3
    done
}

provision() {
    inside "$1" bash "$source/vagrant/provision.sh" "$1" "$(address_of "$1")" "$(address_of node-1)"
}

three_ready() {
    local nodes
    nodes=$(inside node-1 docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}')
    echo "$nodes"
    [ "$(sort <<<"$nodes" | sed 's/ *$//' | tr '\n' ',')" = "node-1 Ready Leader,node-2 Ready,node-3 Ready," ]
}

agent_answers() {
    inside "$1" portico status || {
        inside "$1" tail -n 15 /var/log/portico-node.service.log
        return 1
    }
}

proxy_service() {
    inside node-1 docker network create --driver overlay proxy
    inside node-1 docker service create --detach --name proxy -p 80:80 -p 443:443 -p 8080:8080 \
        --network proxy -e MODE=swarm --no-resolve-image portico
}

ping_through() {
    curl --silent --show-error --fail --max-time 3 "http://$(address_of "$1"):8080/v1/docker-flow-proxy/ping"
}

nodes="node-1 node-2 node-3"
lan
for node in $nodes; do start "$node"; done
for node in $nodes; do check "provision_makes_a_node_of_$node" provision "$node"; done
check three_machines_form_a_swarm eventually 30 three_ready
for node in $nodes; do check "the_agent_answers_on_$node" eventually 20 agent_answers "$node"; done
check a_proxy_service_is_created proxy_service
for node in $nodes; do check "the_proxy_answers_through_$node" eventually 30 ping_through "$node"; done
check provision_again_does_no_harm provision node-2
for node in $nodes; do check "the_proxy_still_answers_through_$node" eventually 10 ping_through "$node"; done
exit "$failed"
