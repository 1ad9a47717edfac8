// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every limit of the proxy, with the arithmetic it comes from.

use std::time::Duration;

/// Bytes of one request head, and of hyper's read buffer for a client connection.
///
/// HAProxy allows 16 KiB less a reserve, nginx 4 × 8 KiB; two of nginx's buffers admit the largest cookies that
/// browsers send (4 KiB × a handful) and bound what 65 536 slow clients can pin to 2 GiB.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long a connection may be quiet before what hyper keeps for it is given back: longer than browsers pause inside
/// of a page, and 1 000 idle ones a second are 1 000 × 2 µs of work.
pub const PARK_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a head that are read at a time until it is whole: one page, on the stack.
pub const WAITING_READ_BYTES: usize = 4096;

/// Fields of one head. hyper keeps this many on the stack; HAProxy's limit is 101.
pub const HEADERS_MAX: usize = 100;

/// Bytes of a request target: half a head, so that a long target still leaves room for fields.
pub const URI_BYTES_MAX: usize = HEAD_BYTES_MAX / 2;

/// Client connections of the whole process, before the file limit is considered.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Files that are not connections: listeners, state, resolver sockets, standard streams.
pub const FILES_RESERVED: usize = 256;

/// Files per client connection: its own socket and the upstream connection that serves it.
pub const FILES_PER_CONNECTION: usize = 2;

/// Upstream connections that a worker opens to one upstream before it reuses an idle one.
///
/// The kernel balances a VIP per connection. With N connections in rotation over n replicas the worst share is
/// off by less than 1/N: 16 would allow 4/16 = 25 % where 20 % ± 4 is promised for five replicas, 32 is off by
/// at most 0.8/32 = 2.5 points.
pub const SPREAD: usize = 32;

/// Requests after which a connection makes room for a new one, while there are turns left.
///
/// Workers share the kernel's rotation, so the connections of one worker are a random part of it and would be
/// uneven by themselves. With this many requests each, what 2 × [`SPREAD`] connections have left over is uneven by
/// about 8 × √(64 / 5 / 12) ≈ 8 requests of a thousand.
pub const UPSTREAM_TURN_REQUESTS: u32 = 8;

/// Turns that a worker has saved for one upstream: 256 × 8 = 2 048 requests are spread this finely at any speed.
pub const UPSTREAM_TURNS_MAX: u32 = 256;

/// Turns that come back each second. A closed connection keeps its local port for 60 s: 8 workers × 16 × 60 = 7 680
/// of the 28 232 that the kernel has for one address. Above this rate connections are replaced by age alone.
pub const UPSTREAM_TURNS_PER_SECOND: u32 = 16;

/// Age at which an upstream connection is retired, before jitter: new replicas have their share this soon.
pub const UPSTREAM_AGE_MAX: Duration = Duration::from_secs(2);

/// Jitter of the age, in percent either way, so that a pool does not reconnect all at once.
pub const UPSTREAM_AGE_JITTER_PERCENT: u32 = 25;

/// Idle time after which a connection to a virtual IP is closed.
pub const UPSTREAM_IDLE_MAX: Duration = Duration::from_secs(1);

/// Idle connections that one worker keeps to one upstream: enough for 512 concurrent requests per worker.
pub const UPSTREAM_IDLE_COUNT_MAX: usize = 512;

/// Services that may differ from those of the index of routes: asking 64 of ten rules each costs a request some 5 µs,
/// and at 1 000 changes a second the index, which takes milliseconds, is made 16 times.
pub const ROUTES_CHANGED_MAX: usize = 64;

/// How often a worker looks for idle connections to close: a quarter of the idle time.
pub const REAP_INTERVAL: Duration = Duration::from_millis(250);

/// Attempts to connect: a refused connection may be one replica's, and the next goes to another.
pub const CONNECT_ATTEMPTS_MAX: usize = 3;

/// Age at which a connection to a known task is replaced, before jitter: shares do not depend on it, only an operator
/// who waits for connections to end does.
pub const TASK_AGE_MAX: Duration = Duration::from_secs(300);

/// Idle time after which a connection to a known task is closed: less than the 5 s after which Node.js and others close
/// it themselves, so that it rarely ends just as it is used.
pub const TASK_IDLE_MAX: Duration = Duration::from_secs(4);

/// Tasks of one service. Swarm's overlays have 254 addresses by default; a DNS answer over TCP ends at 65 535 bytes,
/// which are about 4 000 addresses.
pub const TASKS_MAX: usize = 4096;

/// Requests at a time on one HTTP/2 connection before another is opened: what servers usually admit.
pub const H2_STREAMS_MAX: usize = 100;

/// How often a silent HTTP/2 connection is asked whether it lives: less than the 15 s after which a client gives up.
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long the answer to that may take.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that a read of an answer's head has room for: most heads, and small bodies with them.
pub const UPSTREAM_READ_BYTES: usize = 4 * 1024;

/// Bytes that a read of a large answer's body has room for: 4 reads for 1 MiB.
pub const UPSTREAM_BODY_READ_BYTES: usize = 256 * 1024;

/// Answers that one worker reads in such pieces at a time: two pieces each, one on its way and one to come, are 32 MiB.
pub const LARGE_READS_MAX: usize = 64;

/// Bytes that a read of any other answer's body has room for: 10 000 clients that take nothing hold 160 MiB.
pub const UPSTREAM_BODY_READ_SMALL: usize = 16 * 1024;

/// Pipes of one worker, each for an answer that passes without being copied.
pub const PIPES_MAX: usize = LARGE_READS_MAX;

/// Bytes that such a pipe holds: 64 pages, so that [`PIPES_MAX`] hold 16 MiB, or more where the kernel keeps bytes of the
/// network on larger ones.
pub const PIPE_BYTES: usize = 256 * 1024;

/// What is left of an answer that is worth a pipe.
pub const PASSES_FROM_BYTES: u64 = 64 * 1024;

/// Bytes of an answer that are put together before they are written: below this, copying costs less than a vectored
/// write does.
pub const WRITE_JOINED_MAX: usize = 1024;

/// Bytes of the line in front of a chunk; the size needs 16, the rest is for extensions that nobody uses.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Answers of class 1xx before the answer.
pub const EARLY_ANSWERS_MAX: u32 = 16;

/// How often a request is sent again at most when a service says nothing: HAProxy's three attempts.
pub const RETRIES_DEFAULT: u32 = 2;

/// How often it may ask for.
pub const RETRIES_MAX: u32 = 10;

/// Of a hundred requests, how many may be sent again.
pub const RETRY_PERCENT_DEFAULT: u32 = 20;

/// Retries that a worker may always spend in a second on one service, however few requests it gets.
pub const RETRIES_FLOOR_PER_SECOND: u32 = 10;

/// Retries that a worker has saved for one service: ten seconds of the floor.
pub const RETRIES_SAVED_MAX: u32 = 100;

/// Requests of a service that wait for their turn when it says nothing; each holds about 10 KiB.
pub const QUEUE_DEFAULT: u32 = 1000;

/// How many it may ask for.
pub const QUEUE_MAX: u32 = 100_000;

/// Seconds after which a client that was turned away may come again (Retry-After).
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// Longest time that a parameter may ask for: a day.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// Shortest time between two questions for health.
pub const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Bytes of an answer to such a question that are read: the status is in the first 12.
pub const HEALTH_ANSWER_BYTES: usize = 1024;

/// How long a connect to a virtual IP waits before another one begins beside it: a packet to a replica on a dead node
/// is never answered, and the kernel gives the next connect to another replica. As long as TCP waits for the answer to
/// its first packet, so that a slow replica costs nothing but a connection.
pub const CONNECT_STAGGER: Duration = Duration::from_secs(1);

/// Connects of one request that wait at a time: with the default timeout of five seconds, one each second.
pub const CONNECTS_BESIDE_MAX: usize = 5;

/// How long a task that let a connect time out is not asked again: meanwhile requests fail at once.
pub const MUTE_TIME: Duration = Duration::from_secs(1);

/// Share of a task at the beginning of its slow start, in percent: enough to be seen working.
pub const SLOW_START_PERCENT_MIN: u32 = 10;

/// How often the name of a service in use is asked. Swarm takes a task out of DNS 2 s before SIGTERM; this and the look
/// at the clock every [`REAP_INTERVAL`] stay below.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);

/// Age of an answer from which a request waits for a newer one.
pub const DISCOVERY_AGE_MAX: Duration = Duration::from_millis(1500);

/// How long it waits if there are tasks from before.
pub const DISCOVERY_STALE_WAIT: Duration = Duration::from_millis(250);

/// How long after its last use a name is still asked in the background.
pub const DISCOVERY_USED_MAX: Duration = Duration::from_secs(5);

/// How long after its last use what is known of a service is kept.
pub const GROUP_IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a body with `Expect: 100-continue` waits for the upstream to ask for it. Upstreams that do not know the
/// field never do; curl waits as long.
pub const CONTINUE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a name may take: one lost datagram and its repetition, and less than TIMEOUT_CONNECT, so that the reason
/// is the name and not the connection.
pub const DNS_TIME_MAX: Duration = Duration::from_secs(2);

/// Longest time that the resolver repeats an answer. Swarm says 600 s and answers from live state; less than
/// [`DISCOVERY_INTERVAL`], so that every question of it is a question.
pub const DNS_TTL_MAX: Duration = Duration::from_millis(500);

/// Longest time that a name's absence is believed.
pub const DNS_NEGATIVE_TTL_MAX: Duration = Duration::from_millis(500);

/// Bytes of a compiled regular expression: bounds what one reconfigure can cost.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// Passwords that one worker has hashed at a time, each on a thread beside it. One SHA-512 hash of 5 000 rounds takes
/// some 3 ms, so guessers get 300 tries a second and worker, and never the worker's own time.
pub const AUTH_HASHES_PER_WORKER: usize = 1;

/// How long a login waits for its turn to be hashed: 1 000 guesses before it.
pub const AUTH_WAIT_MAX: Duration = Duration::from_secs(3);

/// Logins that one worker remembers, 32 bytes each; when there are more it forgets them all and hashes again.
pub const AUTH_VERIFIED_MAX: usize = 4096;

/// Bytes of a password, as in libxcrypt: a hash costs time in proportion to it.
pub const AUTH_PASSWORD_BYTES_MAX: usize = 512;

/// Rounds of a SHA hash: 100 times the usual 5 000, which is a third of a second.
pub const AUTH_ROUNDS_MAX: u32 = 500_000;

/// Cost of a bcrypt hash: 2^12 rounds take about a third of a second.
pub const AUTH_BCRYPT_COST_MAX: u32 = 12;

/// Answers that one worker compresses at a time. The window and tables of one take about 300 KiB: 128 are 38 MiB.
pub const ENCODERS_PER_WORKER: usize = 128;

/// Bytes of an error page: HAProxy's limit is its buffer of 16 KiB.
pub const ERROR_PAGE_BYTES_MAX: usize = 64 * 1024;

/// Prefixes in one list of addresses: 32 bytes each, 128 KiB for a list that a parameter can hold. A longer list
/// belongs into a firewall.
pub const PREFIXES_MAX: usize = 4096;

/// Bytes of a body that the API reads.
pub const API_BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a TLS handshake on the admin port may take.
pub const API_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long such a body may take to arrive.
pub const API_BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time between a change and the disk: how much a machine that loses power may lose.
pub const STATE_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of the journal after which the state file is written anew: 10 000 changes of 400 bytes, so at 1 000 changes
/// a second the file, which costs milliseconds, is written every ten seconds.
pub const JOURNAL_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long the API waits for the state file before it answers that the routes are in force but not kept: two writes
/// of 10 MiB on a disk that does 10 MiB/s, and some room.
pub const STATE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Removals that are remembered, so that what a sibling kept does not bring a service back. 4 096 × 64 bytes are
/// 256 KiB; the oldest go first.
pub const REMOVALS_MAX: usize = 4096;

/// How far another replica's clock may be ahead of ours and still be followed: NTP keeps nodes within seconds.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(3600);

/// How long one replica may take in a fan-out.
pub const DISTRIBUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a replica's answer: what it keeps of 10 000 services is some 10 MiB.
pub const PEER_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Ports that services open with srcPort: each costs two files per worker.
pub const STREAM_PORTS_MAX: usize = 256;

/// Bytes of a ClientHello that are waited for: with a post-quantum key share it has about 1.8 KiB, and HAProxy looks at
/// no more than its buffer of 16 KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a PROXY header: addresses take 232 at most, the rest is for extras (a client certificate has about 2 KiB).
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// How long a ClientHello may take; the original's inspect-delay.
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes that pass through a worker at a time; the default of what a socket may hold when it has not grown.
pub const STREAM_SCRATCH_BYTES: usize = 128 * 1024;

/// Reads of one direction before others have their turn: 8 × 128 KiB take about a quarter of a millisecond.
pub const STREAM_TURNS_MAX: usize = 8;

/// How often a port that a service wants and that is taken is tried again, and how long routes may wait to be indexed.
pub const SETTLE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a replica may take to tell what it keeps, and so how long a start may wait for the others: 10 MiB at
/// 10 MiB/s, and a replica that is gone but still in DNS.
pub const COPY_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a listener may take: its list costs it an inspection of every service.
pub const LISTENER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time between two looks at the labels. Events wake earlier; this is for those that got lost.
pub const LABELS_POLL: Duration = Duration::from_secs(30);

/// How often a worker's proxy asks the other replicas for the labels.
pub const LABELS_FOLLOW: Duration = Duration::from_secs(5);

/// A stack that is deployed makes many events; one look for all of them.
pub const LABELS_DEBOUNCE: Duration = Duration::from_millis(50);

/// First wait when the engine does not answer.
pub const LABELS_RETRY_FIRST: Duration = Duration::from_millis(500);

/// Longest wait when the engine does not answer.
pub const LABELS_RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Attempts to write labels while somebody else writes as well: each needs another writer within a few milliseconds.
pub const PERSIST_ATTEMPTS_MAX: usize = 5;

/// How often totals are looked at to make rates of them: HAProxy's are per second.
pub const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of the access log that a worker collects before it hands them over: some 200 lines.
pub const LOG_BUFFER_BYTES: usize = 32 * 1024;

/// How long a line may wait for others.
pub const LOG_DELAY: Duration = Duration::from_millis(20);

/// Buffers that wait for standard output: 128 × 32 KiB are 4 MiB, or 25 000 lines. Beyond that lines are dropped.
pub const LOG_QUEUE: usize = 128;

/// Characters of a captured field, at most.
pub const LOG_CAPTURE_MAX: usize = 1024;

/// Bytes of a request's id that is taken from the client: those of others have 36 or fewer.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Bytes of a PEM file: ten certificates of 4 KiB and a key of 16 384 bits are 80 KiB.
pub const CERT_BYTES_MAX: usize = 256 * 1024;

/// Certificates in one file: a chain is three or four long, and clients give up at ten.
pub const CERT_CHAIN_MAX: usize = 10;

/// Bytes of a certificate's file name: 255 are what file systems allow, less what the temporary name adds.
pub const CERT_NAME_BYTES_MAX: usize = 240;

/// Between two lines of a worker about client certificates that are refused; all are counted.
pub const CERT_REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Certificates: 10 000 × 16 KiB are 160 MiB.
pub const CERTIFICATES_MAX: usize = 10_000;

/// How long the other replicas may take to give their certificates before the ports are opened.
pub const CERT_COPY_TIME_MAX: Duration = Duration::from_secs(3);

/// How often the certificate folders are looked at.
pub const CERT_SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// How long the key of session tickets is in use; a ticket is good for one to two of these. Keys of half a day are
/// what large operators use; at 10 000 tickets a second one key makes 4.3 × 10^8, and 2^32 are safe for AES-GCM.
pub const TICKET_PERIOD: Duration = Duration::from_secs(12 * 3600);

/// Characters of a secret from which keys of tickets are derived: 128 bits in hexadecimal.
pub const TICKET_SECRET_BYTES_MIN: usize = 32;

/// Tickets after a full handshake of TLS 1.3. A client should use each once, and gets another with each connection.
pub const TICKETS_PER_HANDSHAKE: usize = 1;

/// How long the end of a connection may take to be said.
pub const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

/// Streams of one HTTP/2 connection: what nginx allows, and RFC 9113 §6.5.2 recommends at least 100.
pub const H2_CLIENT_STREAMS_MAX: u32 = 128;

/// Bytes of a request body that may be under way on one stream: 1 Gbit/s over 4 ms, as nginx's two buffers of it.
pub const H2_STREAM_WINDOW: u32 = 512 * 1024;

/// The same for a connection: two streams at full speed. 1 MiB × 64 connections whose bodies nobody reads are 64 MiB.
pub const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of one frame from a client: the least that RFC 9113 §4.2 allows, because a frame is buffered whole.
pub const H2_FRAME_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of an answer that wait in one stream for the client: 128 × 64 KiB are 8 MiB for one that takes nothing.
pub const H2_SEND_BUFFER_MAX: usize = 64 * 1024;

/// Bytes of an answer that h2 gets at a time: one frame. It takes a piece when the client takes a byte of it, and keeps
/// the last one for as long as the connection lasts, so a client can make it hold
/// [`H2_CLIENT_STREAMS_MAX`] × 16 KiB = 2 MiB.
pub const H2_PIECE_BYTES_MAX: usize = H2_FRAME_BYTES_MAX as usize;

/// Streams with a body whose trailers are looked at, per direction: as many as there may be at a time, and as many
/// again that the other side has reset.
pub const H2_BODIES_MAX: usize = 2 * H2_CLIENT_STREAMS_MAX as usize;

/// Streams that a client resets before anybody has looked at them: h2's own limit against rapid reset
/// (CVE-2023-44487).
pub const H2_RESETS_UNSEEN_MAX: usize = 20;

/// Streams that are reset for the client's mistakes before the connection ends.
pub const H2_ERRORS_MAX: usize = 256;

/// Resets that a connection has saved, and that come back each second. Somebody who leaves a page cancels what it
/// loads: ten pages of 100 at once, and one each second.
pub const H2_RESETS_BURST: u32 = 1000;
/// See [`H2_RESETS_BURST`].
pub const H2_RESETS_PER_SECOND: u32 = 100;

/// Frames without a request (PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, empty DATA and unknown ones) that a
/// connection has saved: more than a second of the PINGs with which gRPC measures a line of 0.1 ms.
pub const H2_FRAMES_FREE: u32 = 10_000;

/// Such frames for each request, each piece of a body, and each time that something is written: two WINDOW_UPDATEs for
/// each DATA frame of an answer are usual.
pub const H2_FRAMES_PER_USEFUL: u32 = 8;

/// Length of the queue of connections that the kernel holds for a listener.
pub const BACKLOG: i32 = 4096;

/// Client connections that the limit of open files allows, after raising it as far as we may.
pub fn connections_possible() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read or write the struct that they are given.
    let files = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return CONNECTIONS_MAX;
        }
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
            raised.rlim_cur
        } else {
            limit.rlim_cur
        }
    };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files.saturating_sub(FILES_RESERVED) / FILES_PER_CONNECTION).max(1)
}
