use proxy_ebpf::abi::Settings;
#[test]
fn loads() {
    let settings = Settings { tunnel_ifindex: 1, node_be: 0, tunnel_mss: 1410, _pad: 0 };
    let ebpf = proxy_user::kernel::object::load_unpinned(None, &settings).unwrap_or_else(|e| {
        let mut s: Option<&dyn std::error::Error> = Some(&e);
        while let Some(x) = s { eprintln!("{x}"); s = x.source(); }
        panic!("load");
    });
    for (n, _) in ebpf.programs() { println!("{n}"); }
}
