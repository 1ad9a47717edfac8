#!/bin/bash
# Makes this machine a node of the Swarm: provision.sh NAME ADDRESS MANAGER_ADDRESS, as root.
#
# Runs again without harm. PORTICO_SOURCE is the source tree (default /portico).
set -euo pipefail

name=${1:?usage: provision.sh NAME ADDRESS MANAGER_ADDRESS}
address=${2:?usage: provision.sh NAME ADDRESS MANAGER_ADDRESS}
manager=${3:?usage: provision.sh NAME ADDRESS MANAGER_ADDRESS}
source=${PORTICO_SOURCE:-/portico}
target=${CARGO_TARGET_DIR:-$source/target}

# Where a worker fetches the join token from: an HTTP port of the manager, on the private network only.
token_port=2380

say() { printf '[%s] %s\n' "$name" "$*"; }

install_portico() {
    if [ ! -x "$HOME/.cargo/bin/cargo" ]; then
        say "rustup's stable toolchain"
        apt-get update --quiet
        # A linker for xtask itself; it installs the rest.
        apt-get install --yes --no-install-recommends ca-certificates curl gcc libc6-dev
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs |
            sh -s -- -y --profile minimal
    fi
    export PATH="$HOME/.cargo/bin:$PATH"
    cd "$source"
    cargo xtask setup --without-tests
    cargo xtask build
    install -m 755 "$target/release/portico" /usr/local/bin/portico
}

# `setup` installs Docker for the labs and leaves it off; a node of a real Swarm wants it on.
start_engine() {
    systemctl enable --now docker.service
}

is_in_swarm() { [ "$(docker info --format '{{.Swarm.LocalNodeState}}')" = active ]; }

join_swarm() {
    if is_in_swarm; then
        say "already in a Swarm"
    elif [ "$address" = "$manager" ]; then
        docker swarm init --advertise-addr "$address"
    else
        say "asks $manager for the join token"
        token=$(curl --silent --show-error --fail --noproxy '*' --retry 60 --retry-delay 2 --retry-connrefused \
            "http://$manager:$token_port/token")
        docker swarm join --token "$token" --advertise-addr "$address" "$manager:2377"
    fi
}

# These machines are thrown away and their network is private; a real Swarm hands its token over by hand.
offer_token() {
    [ -x /usr/bin/python3 ] || apt-get install --yes --no-install-recommends python3
    install -d -m 755 /srv/swarm-token
    docker swarm join-token --quiet worker >/srv/swarm-token/token
    cat >/etc/systemd/system/swarm-token.service <<UNIT
[Unit]
Description=Join token of this Swarm, for the other machines of this Vagrantfile
After=network-online.target

[Service]
DynamicUser=yes
ExecStart=/usr/bin/python3 -m http.server --bind $address --directory /srv/swarm-token $token_port

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --now swarm-token.service
}

# The interface that has this node's address: published ports arrive there. (ip shows a VLAN or veth as eth0@if3.)
uplink() { ip -brief -4 address show to "$address/32" | cut -d ' ' -f 1 | cut -d @ -f 1; }

start_agent() {
    cat >/etc/systemd/system/portico-node.service <<UNIT
[Unit]
Description=Portico node agent
Wants=network-online.target
After=network-online.target docker.service

[Service]
ExecStart=/usr/local/bin/portico node --docker /run/docker.sock --uplink $(uplink)
RuntimeDirectory=portico
StateDirectory=portico
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable portico-node.service
    # Also when it runs already, with the binary of an earlier run; what it forwards is not interrupted.
    systemctl restart portico-node.service
}

import_image() {
    (cd "$source" && cargo xtask image >/dev/null)
    docker import --change 'ENTRYPOINT ["/portico","proxy"]' "$target/portico-image.tar" portico
}

install_portico
start_engine
join_swarm
if [ "$address" = "$manager" ]; then
    offer_token
fi
start_agent
import_image
say "is a node; on node-1: docker service create --name proxy -p 80:80 -p 443:443 -p 8080:8080 --network proxy -e MODE=swarm --no-resolve-image portico"
