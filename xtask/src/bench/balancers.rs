// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each contestant is programmed: all of them for the same two origins behind the same address.

use std::{fmt::Write as _, fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    links::{CLIENT, FAR_ADDRESS},
    plan::{CONNECTIONS_MAX, Contestant},
    site::{
        BALANCER, BPFFS, FAR, PORT, SOCKET, Site, VIP, WHO, get, get_within, http_preamble, nginx_config,
    },
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
        Contestant::IpvsNat => ipvs(site, "nat"),
        Contestant::IpvsDr => {
            direct_routing(site)?;
            ipvs(site, "dr")
        }
        Contestant::PorticoSocket => {
            let group = site.group("client")?;
            site.client_group = Some(group.clone());
            agent_beside(site, "client", "10.1.0.2", &group)
        }
        Contestant::PorticoTc
        | Contestant::PorticoDsr
        | Contestant::PorticoMasquerade
        | Contestant::PorticoXdp => {
            if site.row.far {
                agents_on_both_nodes(site)?;
            } else {
                agent_on_the_way(site)?;
            }
            check_client(site)
        }
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

/// An agent that programs IPVS from the same file as the agent of Portico's own programs; the well-known tool, where
/// it is installed, must see what was asked for.
fn ipvs(site: &mut Site, forward: &str) -> Result<()> {
    // Direct routing cannot change a port.
    let same_ports = forward == "dr";
    let toml = published_services(site, same_ports, false)?;
    fs::write(
        site.folder.join(CHURNED),
        published_services(site, same_ports, true)?,
    )
    .context(CHURNED)?;
    let more = ["--dataplane", "ipvs", "--ipvs-forward", forward];
    start_agent(site, "lb", &toml, None, &more)?;
    if site.row.flows > 0 {
        // Of TCP, of TCP that has ended, and of UDP; 0 leaves one as it is.
        cmd::text(
            site.inside("lb", "ipvsadm")
                .args(["--set", "0", "0", &LASTING.to_string()]),
        )?;
    }
    if !cmd::exists("ipvsadm") {
        return Ok(());
    }
    let table = cmd::text(site.inside("lb", "ipvsadm").arg("-Ln"))?;
    let method = if same_ports { "Route" } else { "Masq" };
    check_table(&table, site.row.services, site.row.backends, method)
}

/// TCP for each service, and UDP for the one that is asked; the same destinations behind all.
fn check_table(table: &str, services: u32, backends: u32, method: &str) -> Result<()> {
    let found = table
        .lines()
        .filter(|line| line.starts_with("TCP ") || line.starts_with("UDP "))
        .count();
    let destinations = table
        .lines()
        .filter(|line| line.trim_start().starts_with("->") && line.contains(method))
        .count();
    let wanted = services as usize + 1;
    ensure!(
        found == wanted && destinations == wanted * backends as usize,
        "ipvsadm -Ln has {found} services and {destinations} destinations:\n{table}"
    );
    Ok(())
}

/// Seconds that a row's flows are remembered: longer than any run.
const LASTING: u32 = 24 * 60 * 60;

/// Flows of datagrams that a contestant in the kernel says it remembers.
pub fn flows_known(site: &Site) -> Result<u64> {
    if site.row.contestant == Contestant::IpvsNat {
        let table = cmd::text(site.inside("lb", "ipvsadm").arg("-Ln"))?;
        return Ok(connections_of_datagrams(&table));
    }
    let mut command = cmd::lab(&paths::binary("portico").to_string_lossy());
    command
        .args(["flows", "--json", "--limit", "1", "--protocol", "udp", "--socket"])
        .arg(site.folder.join(SOCKET));
    let said: serde_json::Value = serde_json::from_str(&cmd::text(&mut command)?).context("flows")?;
    said["matching"].as_u64().context("the number of flows")
}

/// The last two columns of UDP destinations: active and inactive connections.
fn connections_of_datagrams(table: &str) -> u64 {
    let (mut all, mut datagrams) = (0, false);
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["->", .., active, inactive] if datagrams => {
                all += active.parse().unwrap_or(0) + inactive.parse().unwrap_or(0);
            }
            ["->", ..] => (),
            _ => datagrams = words.first() == Some(&"UDP"),
        }
    }
    all
}

/// Origins that answer with the balancer's address, and a balancer that forwards such answers.
fn direct_routing(site: &Site) -> Result<()> {
    for (name, _) in site.origins() {
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            site.setting(&name, &format!("ipv4/conf/all/{key}"), value)?;
        }
        site.batch(&name, &format!("addr add {BALANCER}/32 dev lo\n"))?;
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
    let toml = services_of_vips(site, place, address, false)?;
    fs::write(
        site.folder.join(CHURNED),
        services_of_vips(site, place, address, true)?,
    )
    .context(CHURNED)?;
    start_agent(site, "node", &toml, Some(group), &[])
}

fn services_of_vips(site: &Site, place: &str, address: &str, drains: bool) -> Result<String> {
    let mut toml = "node = \"node-1\"\n[[nodes]]\nname = \"node-1\"\naddress = \"10.77.0.1\"\n\
         [[nodes]]\nname = \"node-2\"\naddress = \"10.77.0.2\"\n[[networks]]\nname = \"bench\"\n"
        .to_owned();
    let netns = site.namespace_path(place);
    writeln!(
        toml,
        "[[tasks]]\nname = \"{place}\"\nnode = \"node-1\"\nnetns = \"{netns}\"\nnetworks = {{ bench = \"{address}\" }}"
    )?;
    let origins = site.origins();
    for (number, (name, origin)) in origins.iter().enumerate() {
        writeln!(
            toml,
            "[[tasks]]\nname = \"{name}\"\nnode = \"node-2\"\nnetworks = {{ bench = \"{origin}\" }}\ndraining = {}",
            drains && number > 0
        )?;
    }
    let tasks = names(&origins);
    for number in 0..site.row.services {
        let vip = vip(number);
        writeln!(
            toml,
            "[[services]]\nname = \"s{number}\"\nvips = {{ bench = \"{vip}\" }}\ntasks = [{tasks}]"
        )?;
    }
    Ok(toml)
}

/// As a list of TOML, without its brackets.
fn names(origins: &[(String, String)]) -> String {
    let quoted: Vec<String> = origins.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// The first is [`VIP`]; the others are in the same /16.
fn vip(number: u32) -> String {
    let base: u32 = VIP.parse::<std::net::Ipv4Addr>().map_or(0, u32::from);
    std::net::Ipv4Addr::from(base + number).to_string()
}

/// An agent on the balancer: published ports, the origins are its local tasks.
fn agent_on_the_way(site: &mut Site) -> Result<()> {
    let toml = published_services(site, false, false)?;
    fs::write(site.folder.join(CHURNED), published_services(site, false, true)?).context(CHURNED)?;
    // Its socket hooks are in a group that nobody is in.
    let group = site.group("nobody")?;
    start_agent(site, "lb", &toml, Some(&group), &[])
}

/// Agents on the node that is asked and on the one that has the tasks.
fn agents_on_both_nodes(site: &mut Site) -> Result<()> {
    let client = match site.row.contestant {
        Contestant::PorticoDsr => "dsr",
        Contestant::PorticoMasquerade => "masquerade",
        _ => "preserve",
    };
    let xdp = match site.row.contestant {
        Contestant::PorticoXdp => "native",
        _ => "off",
    };
    for (name, namespace, folder) in [
        ("agent", "lb", site.folder.clone()),
        ("far-agent", FAR, site.folder.join(FAR)),
    ] {
        let toml = far_services(site, namespace, client)?;
        let group = site.group(&format!("nobody-{namespace}"))?;
        let more = ["--xdp", if namespace == FAR { "off" } else { xdp }];
        let agent = Agent {
            namespace,
            toml: &toml,
            group: Some(&group),
            more: &more,
            folder,
        };
        start(site, name, &agent)?;
    }
    Ok(())
}

/// What one of the two nodes is told: it sees the namespaces of its own tasks only.
fn far_services(site: &Site, namespace: &str, client: &str) -> Result<String> {
    let node = if namespace == FAR { "node-2" } else { "node-1" };
    let mut toml = format!(
        "node = \"{node}\"\n[[nodes]]\nname = \"node-1\"\naddress = \"{BALANCER}\"\n\
         [[nodes]]\nname = \"node-2\"\naddress = \"{FAR_ADDRESS}\"\n[[networks]]\nname = \"bench\"\n"
    );
    let origins = site.origins();
    for (number, (name, _)) in origins.iter().enumerate() {
        writeln!(
            toml,
            "[[tasks]]\nname = \"{name}\"\nnode = \"node-2\"\nnetworks = {{ bench = \"10.98.0.{}\" }}",
            number + 11
        )?;
        if namespace == FAR {
            writeln!(toml, "netns = \"{}\"", site.namespace_path(name))?;
        }
    }
    writeln!(
        toml,
        "[[services]]\nname = \"s0\"\nports = [{{ published = {PORT}, target = {PORT} }}]\n\
         client = \"{client}\"\ntasks = [{}]",
        names(&origins)
    )?;
    Ok(toml)
}

/// The origins must see the client that the contestant claims to show them.
fn check_client(site: &Site) -> Result<()> {
    let wanted = match site.row.contestant {
        Contestant::PorticoMasquerade => BALANCER,
        _ => CLIENT,
    };
    // The other node programs its side on its own; the first calls may come before that.
    let seen = site.on_thread("client", || {
        let mut left = CALLS;
        loop {
            left -= 1;
            match get_within(CALL_PATIENCE, BALANCER, PORT, WHO) {
                Err(_) if left > 0 => thread::sleep(CALL_INTERVAL),
                answer => return answer.context("no answer through both nodes"),
            }
        }
    })?;
    ensure!(
        seen.trim() == wanted,
        "the origins see {} as the client, not {wanted}",
        seen.trim()
    );
    Ok(())
}

/// Both agents have said that they are ready: a call or two are lost while neighbours get to know each other.
const CALLS: u32 = 5;
const CALL_PATIENCE: Duration = Duration::from_secs(5);
const CALL_INTERVAL: Duration = Duration::from_millis(200);

fn published_services(site: &Site, same_ports: bool, drains: bool) -> Result<String> {
    let mut toml = format!(
        "node = \"node-1\"\n[[nodes]]\nname = \"node-1\"\naddress = \"{BALANCER}\"\n[[networks]]\nname = \"bench\"\n"
    );
    let origins = site.origins();
    for (number, (name, _)) in origins.iter().enumerate() {
        let netns = site.namespace_path(name);
        writeln!(
            toml,
            "[[tasks]]\nname = \"{name}\"\nnode = \"node-1\"\nnetns = \"{netns}\"\n\
             networks = {{ bench = \"10.98.0.{}\" }}\ndraining = {}",
            number + 11,
            drains && number > 0
        )?;
    }
    let tasks = names(&origins);
    for number in 0..site.row.services {
        let published = if number == 0 { PORT } else { other_port(number) };
        let target = if same_ports { published } else { PORT };
        let datagrams = if number == 0 {
            format!(", {{ published = {published}, target = {target}, protocol = \"udp\" }}")
        } else {
            String::new()
        };
        writeln!(
            toml,
            "[[services]]\nname = \"s{number}\"\nports = [{{ published = {published}, target = {target} }}{datagrams}]\n\
             tasks = [{tasks}]"
        )?;
    }
    Ok(toml)
}

/// The agent's file, the one that a changed copy is renamed over.
pub const CONFIG: &str = "portico.toml";
/// The same with all backends but the first draining.
pub const CHURNED: &str = "churned.toml";
/// Room for the flows of a sample; the default takes 96 MiB for each agent at once.
const FLOWS_MIN: u32 = 1 << 16;

/// An agent of a site.
struct Agent<'a> {
    namespace: &'a str,
    toml: &'a str,
    /// Whose hooks it has; none for IPVS, which has none.
    group: Option<&'a std::path::Path>,
    more: &'a [&'a str],
    /// Where its file, its pins and its socket are.
    folder: PathBuf,
}

fn start_agent(
    site: &mut Site,
    namespace: &str,
    toml: &str,
    group: Option<&std::path::Path>,
    more: &[&str],
) -> Result<()> {
    let folder = site.folder.clone();
    let agent = Agent {
        namespace,
        toml,
        group,
        more,
        folder,
    };
    start(site, "agent", &agent)
}

fn start(site: &mut Site, name: &str, agent: &Agent<'_>) -> Result<()> {
    let folder = &agent.folder;
    let (config, bpffs, socket) = (folder.join(CONFIG), folder.join(BPFFS), folder.join(SOCKET));
    fs::create_dir_all(&bpffs).context("bpffs")?;
    fs::write(&config, agent.toml).context(CONFIG)?;
    cmd::text(cmd::lab("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
    let mut command = site.inside(agent.namespace, &paths::binary("portico").to_string_lossy());
    command
        .arg("node")
        .arg("--config")
        .arg(&config)
        .args(["--uplink", "up0"]);
    command.arg("--bpffs").arg(bpffs.join("portico"));
    if let Some(group) = agent.group {
        command.arg("--cgroup").arg(group);
        // Half of a table that hashes is about what fits without one driving out another.
        let flows = site.row.flows.saturating_mul(2).max(FLOWS_MIN);
        command.args(["--flows", &flows.to_string()]);
        if site.row.flows > 0 {
            command.args(["--flow-timeouts", &format!("udp={LASTING},udp-stream={LASTING}")]);
        }
    }
    command.args(agent.more);
    command
        .arg("--state")
        .arg(folder.join("agent"))
        .arg("--socket")
        .arg(&socket);
    site.start(name, &mut command)?;
    let services = u64::from(site.row.services);
    site.wait("the agent has programmed everything", |_| {
        let mut status = cmd::lab(&paths::binary("portico").to_string_lossy());
        status.args(["status", "--json", "--socket"]).arg(&socket);
        let output = cmd::output(&mut status)?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        // Before its first look at the file an agent has nothing pending either.
        let done = status["frontends"]["done"].as_u64().unwrap_or(0);
        Ok(output.status.success() && done >= services && agent::pending(&status).is_none())
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
        for (name, origin) in site.origins() {
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

fn upstream(site: &Site, number: u32, more: &str) -> String {
    let origins = site.origins().into_iter();
    let servers: String = origins
        .map(|(_, origin)| format!("server {origin}:{PORT}; "))
        .collect();
    format!("upstream o{number} {{ {servers} {more} }}\n")
}

fn nginx_stream(site: &mut Site) -> Result<()> {
    let blocks = format!(
        "stream {{ {} server {{ listen {BALANCER}:{PORT} backlog=4096; proxy_pass o0; }} \
         server {{ listen {BALANCER}:{PORT} udp; proxy_pass o0; }} }}",
        upstream(site, 0, "")
    );
    balancing_nginx(site, &blocks)
}

fn nginx_http(site: &mut Site) -> Result<()> {
    let mut blocks = format!("http {{ {}\n", http_preamble(&site.folder.join("balancer")));
    let mut locations = String::new();
    for number in 0..site.row.services {
        blocks += &upstream(
            site,
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
    let pid = site.nginx("lb", "balancer", &nginx_config(&folder, CONNECTIONS_MAX, blocks))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_well_known_tool_must_have_everything() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\n\
            Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
            TCP  10.1.0.1:80 rr\n  -> 172.18.0.11:80 Masq 1 0 0\n  -> 172.18.0.12:80 Masq 1 0 0\n\
            UDP  10.1.0.1:80 rr\n  -> 172.18.0.11:80 Masq 1 0 0\n  -> 172.18.0.12:80 Masq 1 0 0\n";
        assert!(check_table(table, 1, 2, "Masq").is_ok());
        assert!(check_table(table, 2, 2, "Masq").is_err(), "a service is missing");
        assert!(
            check_table(table, 1, 3, "Masq").is_err(),
            "a destination is missing"
        );
        assert!(check_table(table, 1, 2, "Route").is_err(), "another way");
        assert_eq!(connections_of_datagrams(table), 0);
        let busy = table.replace("Masq 1 0 0", "Masq 1 3 500");
        assert_eq!(
            connections_of_datagrams(&busy),
            1006,
            "those of TCP are not meant"
        );
    }
}
