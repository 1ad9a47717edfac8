// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each contestant is programmed: all of them for the same two origins behind the same address.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result, ensure};

use super::{
    plan::Contestant,
    site::{BALANCER, BPFFS, ORIGINS, PORT, Site, VIP, get, http_preamble, nginx_config},
};
use crate::{cmd, lab::agent, paths};

/// Where Portico's proxy has its API.
const API_PORT: u16 = 8080;
/// Ports of further services begin here; 10 000 of them end below the ephemeral ones of Linux.
const OTHER_PORTS: u16 = 20_000;
/// Connections to origins that an HTTP proxy keeps.
const KEPT: u32 = 64;

/// Puts the row's contestant into its site.
pub fn install(site: &mut Site) -> Result<()> {
    match site.row.contestant {
        Contestant::Direct => Ok(()),
        Contestant::IpvsNat => ipvs(site, "-m"),
        Contestant::IpvsDr => {
            direct_routing(site)?;
            ipvs(site, "-g")
        }
        Contestant::PorticoSocket => {
            let group = site.group("client")?;
            site.client_group = Some(group.clone());
            agent_beside(site, "client", "10.1.0.2", &group)
        }
        Contestant::PorticoTc => agent_on_the_way(site),
        Contestant::HaproxyTcp => haproxy(site, "tcp"),
        Contestant::HaproxyHttp => haproxy(site, "http"),
        Contestant::NginxStream => nginx_stream(site),
        Contestant::NginxHttp => nginx_http(site),
        Contestant::PorticoL7 => portico_l7(site),
    }
}

/// Port of a service that nobody asks.
fn other_port(number: u32) -> u16 {
    OTHER_PORTS + u16::try_from(number).unwrap_or(u16::MAX - OTHER_PORTS)
}

// --- IPVS ----------------------------------------------------------------------------------------------------

fn ipvs(site: &Site, method: &str) -> Result<()> {
    let mut rules = String::new();
    let ports = std::iter::once(PORT).chain((1..site.row.services).map(other_port));
    for port in ports {
        writeln!(rules, "-A -t {BALANCER}:{port} -s rr")?;
        for (_, origin) in ORIGINS {
            writeln!(rules, "-a -t {BALANCER}:{port} -r {origin}:{PORT} {method}")?;
        }
    }
    cmd::feed(site.inside("lb", "ipvsadm").arg("-R"), &rules)?;
    let table = cmd::text(site.inside("lb", "ipvsadm").arg("-Ln"))?;
    let found = table.lines().filter(|line| line.starts_with("TCP ")).count();
    ensure!(
        found == site.row.services as usize,
        "ipvsadm -Ln has {found} services:\n{table}"
    );
    Ok(())
}

/// Origins that answer with the balancer's address, and a balancer that forwards such answers.
fn direct_routing(site: &Site) -> Result<()> {
    for (name, _) in ORIGINS {
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            site.setting(name, &format!("ipv4/conf/all/{key}"), value)?;
        }
        site.batch(name, &format!("addr add {BALANCER}/32 dev lo\n"))?;
    }
    for interface in ["all", "gwbr"] {
        site.setting("lb", &format!("ipv4/conf/{interface}/accept_local"), "1")?;
        site.setting("lb", &format!("ipv4/conf/{interface}/rp_filter"), "0")?;
    }
    Ok(())
}

// --- Portico's data plane --------------------------------------------------------------------------------------

/// An agent whose only task is the one with the hooks; the origins are tasks of another node.
///
/// It has a namespace of its own, so that nothing of it is on the way of the packets.
fn agent_beside(site: &mut Site, place: &str, address: &str, group: &std::path::Path) -> Result<()> {
    site.batch(
        "node",
        "link set lo up\nlink add up0 type veth peer name other\naddr add 10.77.0.1/24 dev up0\n\
         link set other up\nlink set up0 up\n",
    )?;
    let mut toml = "node = \"node-1\"\n[[nodes]]\nname = \"node-1\"\naddress = \"10.77.0.1\"\n\
         [[nodes]]\nname = \"node-2\"\naddress = \"10.77.0.2\"\n[[networks]]\nname = \"bench\"\n"
        .to_owned();
    let netns = site.namespace_path(place);
    writeln!(
        toml,
        "[[tasks]]\nname = \"{place}\"\nnode = \"node-1\"\nnetns = \"{netns}\"\nnetworks = {{ bench = \"{address}\" }}"
    )?;
    for (name, origin) in ORIGINS {
        writeln!(
            toml,
            "[[tasks]]\nname = \"{name}\"\nnode = \"node-2\"\nnetworks = {{ bench = \"{origin}\" }}"
        )?;
    }
    for number in 0..site.row.services {
        let vip = vip(number);
        writeln!(
            toml,
            "[[services]]\nname = \"s{number}\"\nvips = {{ bench = \"{vip}\" }}\ntasks = [\"origin-1\", \"origin-2\"]"
        )?;
    }
    start_agent(site, "node", &toml, group)
}

/// The first is [`VIP`]; the others are in the same /16.
fn vip(number: u32) -> String {
    let base: u32 = VIP.parse::<std::net::Ipv4Addr>().map_or(0, u32::from);
    std::net::Ipv4Addr::from(base + number).to_string()
}

/// An agent on the balancer: published ports, the origins are its local tasks.
fn agent_on_the_way(site: &mut Site) -> Result<()> {
    let mut toml = format!(
        "node = \"node-1\"\n[[nodes]]\nname = \"node-1\"\naddress = \"{BALANCER}\"\n[[networks]]\nname = \"bench\"\n"
    );
    for (number, (name, _)) in ORIGINS.iter().enumerate() {
        let netns = site.namespace_path(name);
        writeln!(
            toml,
            "[[tasks]]\nname = \"{name}\"\nnode = \"node-1\"\nnetns = \"{netns}\"\n\
             networks = {{ bench = \"10.98.0.{}\" }}",
            number + 11
        )?;
    }
    for number in 0..site.row.services {
        let published = if number == 0 { PORT } else { other_port(number) };
        writeln!(
            toml,
            "[[services]]\nname = \"s{number}\"\nports = [{{ published = {published}, target = {PORT} }}]\n\
             tasks = [\"origin-1\", \"origin-2\"]"
        )?;
    }
    // Its socket hooks are in a group that nobody is in.
    let group = site.group("nobody")?;
    start_agent(site, "lb", &toml, &group)
}

fn start_agent(site: &mut Site, namespace: &str, toml: &str, group: &std::path::Path) -> Result<()> {
    let folder = site.folder.clone();
    let (config, bpffs, socket) = (
        folder.join("portico.toml"),
        folder.join(BPFFS),
        folder.join("node.sock"),
    );
    fs::write(&config, toml).context("portico.toml")?;
    fs::create_dir_all(&bpffs).context("bpffs")?;
    cmd::text(cmd::lab("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
    let mut command = site.inside(namespace, &paths::binary("portico").to_string_lossy());
    command
        .arg("node")
        .arg("--config")
        .arg(&config)
        .args(["--uplink", "up0"]);
    command
        .arg("--bpffs")
        .arg(bpffs.join("portico"))
        .arg("--cgroup")
        .arg(group);
    command
        .arg("--state")
        .arg(folder.join("agent"))
        .arg("--socket")
        .arg(&socket);
    site.start("agent", &mut command)?;
    site.wait("the agent has programmed everything", |_| {
        let mut status = cmd::lab(&paths::binary("portico").to_string_lossy());
        status.args(["status", "--json", "--socket"]).arg(&socket);
        let output = cmd::output(&mut status)?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(output.status.success() && agent::pending(&status).is_none())
    })
}

// --- userspace -------------------------------------------------------------------------------------------------

fn haproxy(site: &mut Site, mode: &str) -> Result<()> {
    let mut text = format!(
        "global\n nbthread 1\n maxconn 8192\ndefaults\n mode {mode}\n timeout connect 5s\n timeout client 20s\n \
         timeout server 20s\n"
    );
    let http = mode == "http";
    if http {
        text += " option http-keep-alive\n option forwardfor\n http-reuse always\n";
    }
    writeln!(text, "frontend f\n bind {BALANCER}:{PORT}")?;
    if http {
        for number in 1..site.row.services {
            writeln!(text, " use_backend b{number} if {{ path_beg /s{number}/ }}")?;
        }
    }
    writeln!(text, " default_backend b0")?;
    let backends = if http { site.row.services } else { 1 };
    for number in 0..backends {
        writeln!(text, "backend b{number}\n balance roundrobin")?;
        for (name, origin) in ORIGINS {
            writeln!(text, " server {name} {origin}:{PORT}")?;
        }
    }
    let config = site.folder.join("haproxy.cfg");
    fs::write(&config, text).context("haproxy.cfg")?;
    let mut command = site.inside("lb", "haproxy");
    command.arg("-db").arg("-f").arg(&config);
    let pid = site.start("haproxy", &mut command)?;
    site.is_balancer(pid);
    site.wait_listens("client", BALANCER, PORT)
}

fn upstream(number: u32, more: &str) -> String {
    let servers = ORIGINS
        .map(|(_, origin)| format!("server {origin}:{PORT};"))
        .join(" ");
    format!("upstream o{number} {{ {servers} {more} }}\n")
}

fn nginx_stream(site: &mut Site) -> Result<()> {
    let blocks = format!(
        "stream {{ {} server {{ listen {BALANCER}:{PORT} backlog=4096; proxy_pass o0; }} }}",
        upstream(0, "")
    );
    balancing_nginx(site, &blocks)
}

fn nginx_http(site: &mut Site) -> Result<()> {
    let mut blocks = format!("http {{ {}\n", http_preamble(&site.folder.join("balancer")));
    let mut locations = String::new();
    for number in 0..site.row.services {
        blocks += &upstream(
            number,
            &format!("keepalive {KEPT}; keepalive_requests 100000000;"),
        );
        let path = if number == 0 {
            "/".to_owned()
        } else {
            format!("/s{number}/")
        };
        writeln!(
            locations,
            "location {path} {{ proxy_pass http://o{number}; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_set_header Host $http_host; \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}"
        )?;
    }
    write!(
        blocks,
        "server {{ listen {BALANCER}:{PORT} backlog=4096; {locations} }} }}"
    )?;
    balancing_nginx(site, &blocks)
}

fn balancing_nginx(site: &mut Site, blocks: &str) -> Result<()> {
    let folder = site.folder.join("balancer");
    fs::create_dir_all(&folder).context("nginx's folder")?;
    let pid = site.nginx("lb", "balancer", &nginx_config(&folder, blocks))?;
    site.is_balancer(pid);
    site.wait_listens("client", BALANCER, PORT)
}

/// The proxy connects to a VIP, as in a Swarm; socket hooks choose the origin.
fn portico_l7(site: &mut Site) -> Result<()> {
    let group = site.group("proxy")?;
    agent_beside(site, "lb", "172.18.0.1", &group)?;
    let mut command = site.inside("lb", "sh");
    command
        .args(["-c", "echo $$ > $1/cgroup.procs; shift; exec \"$@\"", "sh"])
        .arg(&group);
    command
        .arg(paths::binary("portico"))
        .args(["proxy", "--workers", "1", "--ip", "127.0.0.1"]);
    command.args(["--listen", BALANCER, "--default-ports", &PORT.to_string()]);
    command
        .args(["--port", &API_PORT.to_string(), "--state"])
        .arg(site.folder.join("proxy"));
    let pid = site.start("proxy", &mut command)?;
    site.is_balancer(pid);
    site.wait_listens("lb", "127.0.0.1", API_PORT)?;
    for number in 0..site.row.services {
        let path = if number == 0 {
            "/".to_owned()
        } else {
            format!("/s{number}/")
        };
        let vip = vip(number);
        let query = format!("serviceName=s{number}&servicePath={path}&outboundHostname={vip}&port={PORT}");
        let target = format!("/v1/docker-flow-proxy/reconfigure?{query}");
        site.on_thread("lb", move || get("127.0.0.1", API_PORT, &target))?;
    }
    site.wait_listens("client", BALANCER, PORT)
}
