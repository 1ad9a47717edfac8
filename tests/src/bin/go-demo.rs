// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stand-in for the images `vfarcic/go-demo` and its database, for labs and tests.
//!
//! One static binary with four modes. Without arguments it is the service: HTTP on :8080 and UDP echo on :8081.
//! `db` is the database: a line protocol on TCP :27017. `udp` and `hold` are the clients that the labs need and
//! that curl cannot be: one UDP question with its answer, and a TCP connection that stays open.

use std::{
    convert::Infallible,
    env,
    net::SocketAddr,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hickory_resolver::Resolver;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portico_tests::go_demo::{Store, json_person, leftmost, percent_decode, query_value};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// Where HTTP is served.
const HTTP_PORT: u16 = 8080;
/// Where UDP echo is served.
const UDP_PORT: u16 = 8081;
/// MongoDB's port, because the original's database is MongoDB.
const DB_PORT: u16 = 27017;
/// The longest name or document that the stand-in takes; the database answers longer lines with an error.
const LINE_BYTES_MAX: usize = 4096;
/// A database that does not answer in this time is down.
const DB_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the service goes on after SIGTERM; shorter than the labs' and Docker's patience (10 s).
const DRAIN: Duration = Duration::from_secs(2);
/// SIGTERM has come.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// Patience of the `udp` client.
const UDP_TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("go-demo: runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let args: Vec<String> = env::args().skip(1).collect();
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("go-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] | ["server"] => tokio::try_join!(serve_http(), serve_udp(), terminated(DRAIN)).map(|_| ()),
        ["db"] => tokio::try_join!(serve_db(), terminated(Duration::ZERO)).map(|_| ()),
        ["udp", target, payload] => ask_udp(target, payload).await,
        ["hold", target, path] => hold(target, path).await,
        _ => bail!("usage: go-demo [server | db | udp HOST:PORT PAYLOAD | hold HOST:PORT PATH]"),
    }
}

/// Ends the process on SIGTERM: the first process of a container has no default action for it.
///
/// The service goes on serving for `drain`: whoever balances over the tasks learns of the end only now, and a
/// well-behaved server does not refuse the connections that are still on their way, and ends those that it has with
/// an answer that says so, not in the middle of a question.
async fn terminated(drain: Duration) -> Result<()> {
    let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    signal.recv().await;
    LEAVING.store(true, Ordering::Relaxed);
    tokio::time::sleep(drain).await;
    std::process::exit(0);
}

// --- the service ---------------------------------------------------------------------------------------------

async fn serve_http() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", HTTP_PORT))
        .await
        .context("HTTP port")?;
    println!("{} listens on {HTTP_PORT}/tcp and {UDP_PORT}/udp", hostname());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                // Out of descriptors: give open connections time to end instead of spinning.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, peer));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("connection of {peer}: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Infallible> {
    let client = request
        .headers()
        .get("x-forwarded-for")
        .and_then(|value| value.to_str().ok())
        .and_then(leftmost)
        .map_or_else(|| peer.ip().to_string(), str::to_owned);
    println!(
        "{} {} client={client} peer={peer}",
        request.method(),
        request.uri()
    );
    let (status, kind, body) = match request.uri().path() {
        "/demo/hello" => (StatusCode::OK, "text/plain", "hello, world!\n".to_owned()),
        "/demo/whoami" => {
            let seen = serde_json::json!({ "hostname": hostname(), "client": client, "peer": peer.ip().to_string() });
            (StatusCode::OK, "application/json", format!("{seen}\n"))
        }
        "/demo/person" => person(request).await,
        _ => (StatusCode::NOT_FOUND, "text/plain", "no such path\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static(kind));
    if LEAVING.load(Ordering::Relaxed) {
        headers.insert("connection", hyper::header::HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// `PUT /demo/person?name=X` stores X with the body as its document; `GET` reads it back.
async fn person(request: Request<Incoming>) -> (StatusCode, &'static str, String) {
    let name = request
        .uri()
        .query()
        .and_then(|query| query_value(query, "name"))
        .map(percent_decode);
    let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(char::is_whitespace)) else {
        return (
            StatusCode::BAD_REQUEST,
            "text/plain",
            "parameter name is missing or has blanks\n".to_owned(),
        );
    };
    let line = match *request.method() {
        Method::GET => format!("GET {name}"),
        Method::PUT => match Limited::new(request.into_body(), LINE_BYTES_MAX / 2)
            .collect()
            .await
        {
            Ok(body) => {
                let document = String::from_utf8_lossy(&body.to_bytes()).replace(['\r', '\n'], " ");
                format!("PUT {name} {document}")
            }
            Err(error) => return (StatusCode::BAD_REQUEST, "text/plain", format!("body: {error}\n")),
        },
        _ => {
            return (
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "GET or PUT\n".to_owned(),
            );
        }
    };
    match timeout(DB_TIMEOUT, ask_db(&line)).await {
        Ok(Ok(answer)) if answer == "NONE" => {
            (StatusCode::NOT_FOUND, "text/plain", "no such person\n".to_owned())
        }
        Ok(Ok(answer)) => match answer.strip_prefix("OK") {
            Some(document) => (
                StatusCode::OK,
                "application/json",
                json_person(&name, document.trim()),
            ),
            None => (
                StatusCode::BAD_GATEWAY,
                "text/plain",
                format!("database: {answer}\n"),
            ),
        },
        Ok(Err(error)) => (
            StatusCode::BAD_GATEWAY,
            "text/plain",
            format!("database: {error:#}\n"),
        ),
        Err(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "text/plain",
            "database: no answer\n".to_owned(),
        ),
    }
}

async fn ask_db(line: &str) -> Result<String> {
    let host = env::var("DB").unwrap_or_else(|_| "go-demo-db".to_owned());
    let mut stream = connect(&host, DB_PORT).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

async fn serve_udp() -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", UDP_PORT)).await.context("UDP port")?;
    let mut payload = [0; 2048];
    loop {
        // Errors of single datagrams (an ICMP answer to an earlier reply) must not end the service.
        let Ok((length, peer)) = socket.recv_from(&mut payload).await else {
            continue;
        };
        println!("UDP {length} bytes client={} peer={peer}", peer.ip());
        let mut reply = format!("{} ", hostname()).into_bytes();
        reply.extend_from_slice(&payload[..length]);
        if let Err(error) = socket.send_to(&reply, peer).await {
            eprintln!("reply to {peer}: {error}");
        }
    }
}

// --- the database --------------------------------------------------------------------------------------------

async fn serve_db() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", DB_PORT))
        .await
        .context("database port")?;
    println!("{} (database) listens on {DB_PORT}/tcp", hostname());
    let store = Store::default();
    loop {
        let (stream, peer) = listener.accept().await?;
        let store = store.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_db_connection(stream, &store, peer).await {
                eprintln!("connection of {peer}: {error}");
            }
        });
    }
}

async fn serve_db_connection(stream: TcpStream, store: &Store, peer: SocketAddr) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_BYTES_MAX as u64)).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line} client={}", peer.ip());
        write
            .write_all(format!("{}\n", store.answer(&line)).as_bytes())
            .await?;
        lines.get_mut().get_mut().set_limit(LINE_BYTES_MAX as u64);
    }
    Ok(())
}

// --- the clients ---------------------------------------------------------------------------------------------

/// Sends one datagram and prints the answer; fails at once when the answer is an ICMP error.
async fn ask_udp(target: &str, payload: &str) -> Result<()> {
    let (host, port) = split_target(target)?;
    let address = resolve(host, port).await?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket
        .connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    socket
        .send(payload.as_bytes())
        .await
        .with_context(|| format!("send to {address}"))?;
    let mut answer = [0; 4096];
    let length = timeout(UDP_TIMEOUT, socket.recv(&mut answer))
        .await
        .with_context(|| format!("no answer of {address} in {UDP_TIMEOUT:?}"))?
        .with_context(|| format!("answer of {address}"))?;
    println!("{}", String::from_utf8_lossy(&answer[..length]));
    Ok(())
}

/// One keep-alive connection: asks for `path` once per line of standard input, prints each status line.
async fn hold(target: &str, path: &str) -> Result<()> {
    let (host, port) = split_target(target)?;
    let stream = TokioIo::new(connect(host, port).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let (lines, mut next) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while next.recv().await.is_some() {
        let request = Request::get(path)
            .header("host", host)
            .body(Full::<Bytes>::default())?;
        let response = timeout(UDP_TIMEOUT, sender.send_request(request))
            .await
            .context("no answer")??;
        println!("{}", response.status());
        response.into_body().collect().await?;
    }
    Ok(())
}

fn split_target(target: &str) -> Result<(&str, u16)> {
    let (host, port) = target.rsplit_once(':').context("target is HOST:PORT")?;
    Ok((host, port.parse().with_context(|| format!("port {port}"))?))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let address = resolve(host, port).await?;
    TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {host} ({address})"))
}

/// Resolves without NSS: this binary is static and runs in an empty image. Hosts file first, then DNS; built
/// anew for each call so that a changed hosts file is seen.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(address) = host.parse() {
        return Ok(SocketAddr::new(address, port));
    }
    let resolver = Resolver::builder_tokio()
        .and_then(|builder| builder.build())
        .context("resolver")?;
    let addresses = resolver
        .lookup_ip(host)
        .await
        .with_context(|| format!("resolve {host}"))?;
    let address = addresses
        .iter()
        .find(std::net::IpAddr::is_ipv4)
        .with_context(|| format!("{host}: no IPv4"))?;
    Ok(SocketAddr::new(address, port))
}

fn hostname() -> String {
    env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
        })
}
