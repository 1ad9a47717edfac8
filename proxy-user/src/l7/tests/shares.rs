// SPDX-License-Identifier: MIT OR Apache-2.0
//! A VIP balances per connection; requests must be shared evenly all the same.

use super::*;

const REPLICAS: usize = 5;
const REQUESTS: usize = 1000;

/// A VIP with five replicas behind it: the n-th connection belongs to replica n modulo 5.
fn vip() -> SocketAddr {
    origin(|number, mut wire| {
        let replica = number % REPLICAS;
        while !wire.head().is_empty() {
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{replica}"));
        }
    })
}

fn check(workers: usize, clients: usize, keeps_alive: bool) {
    let site = Site::with(|settings| settings.workers = workers);
    site.route_all(vip());
    let shares: Mutex<BTreeMap<String, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (site, shares) = (&site, &shares);
            scope.spawn(move || {
                let mut wire = site.connect();
                let mine = REQUESTS / clients + usize::from(client < REQUESTS % clients);
                for _ in 0..mine {
                    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    let reply = wire.reply();
                    assert_eq!(reply.status, 200);
                    *shares.lock().unwrap().entry(reply.text()).or_default() += 1;
                    if !keeps_alive {
                        wire = site.connect();
                    }
                }
            });
        }
    });
    let shares = shares.into_inner().unwrap();
    assert_eq!(shares.values().sum::<usize>(), REQUESTS);
    let is_even = shares.len() == REPLICAS && shares.values().all(|count| (160..=240).contains(count));
    assert!(is_even, "{workers} workers, {clients} clients: {shares:?}");
}

#[test]
fn one_sequential_client_spreads_over_all_replicas() {
    check(1, 1, true);
    check(2, 1, true);
    check(2, 1, false);
}

#[test]
fn concurrent_keep_alive_clients_spread_over_all_replicas() {
    check(1, 8, true);
    check(2, 8, true);
    check(1, 64, true);
    check(2, 64, true);
}
