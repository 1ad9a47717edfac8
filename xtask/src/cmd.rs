// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting other programs, with errors that say what was run and what it answered.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// For a program that is asked something: none of them takes longer than seconds, also on a busy machine.
const ASKED: Duration = Duration::from_secs(180);
/// For a program that does something: the longest is a first build of everything on a slow machine.
const WORKING: Duration = Duration::from_secs(45 * 60);

/// Variables that would send a lab's traffic to a proxy of the machine.
const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
];

/// A program of the machine. Cargo's own library path is taken out: another toolchain would load it.
pub fn host(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// An administrator's program that a user runs as well: its folder need not be in the user's `PATH`.
pub fn host_admin(program: &str) -> Command {
    let found = find(program).unwrap_or_else(|| program.into());
    host(&found.to_string_lossy())
}

/// A program of the lab: never through a proxy, because its addresses mean something only inside the lab.
pub fn lab(program: &str) -> Command {
    let mut command = host(program);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The command line, as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs it with this process's output; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    run_within(command, WORKING)
}

/// The same with a deadline; what has not ended then is killed.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let status = wait_within(&mut child, limit).with_context(|| shown(command))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Waits for a program to end. After `limit` it is killed with everything that it started.
pub fn wait_within(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    if !Watched::new(child)?.ends_within(limit) {
        kill_tree(i32::try_from(child.id())?);
        // Its exit code says nothing any more, and it must not stay a zombie.
        let _ = child.wait();
        bail!("killed, because it had not ended after {} s", limit.as_secs());
    }
    Ok(child.wait()?)
}

/// A child that can be waited for without collecting it, so that its pid stays its own.
struct Watched(OwnedFd);

impl Watched {
    /// The child must not have been collected yet.
    fn new(child: &Child) -> Result<Watched> {
        // SAFETY: pidfd_open takes a pid and flags, and touches no memory of this process.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("pidfd_open");
        }
        // SAFETY: the kernel has just given us this descriptor and nothing else owns it.
        Ok(Watched(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) }))
    }

    /// Whether the child has ended at the latest after `limit`.
    fn ends_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd that outlives the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
            // A signal (Ctrl-C is remembered, not obeyed) ends poll early.
            if ready > 0 || left.is_zero() {
                return ready > 0;
            }
        }
    }
}

/// Kills a process and everything below it, parents first, so that no parent replaces a dead child.
fn kill_tree(root: i32) {
    // Looked for before the first dies: an orphan has another parent.
    let below = descendants(root);
    std::iter::once(root).chain(below).for_each(kill);
}

/// Kills everything that this process has started and that still runs.
pub fn kill_children() {
    descendants(i32::try_from(std::process::id()).unwrap_or(0))
        .into_iter()
        .for_each(kill);
}

fn kill(pid: i32) {
    // SAFETY: kill has no memory preconditions; a pid that is gone gives ESRCH, which is what we want anyway.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Every process below one, parents before children.
fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let pid = entry.file_name().to_string_lossy().parse();
        // The name (field 2) may contain blanks and parentheses: count from its closing one.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        if let (Ok(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Runs it and collects its output, whatever its exit code.
pub fn output(command: &mut Command) -> Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    output_within(child, ASKED).with_context(|| shown(command))
}

/// Collects what a child prints until it ends; after `limit` it is killed.
pub fn output_within(mut child: Child, limit: Duration) -> Result<Output> {
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait_within(&mut child, limit)?;
    // What it has left running may hold its ends of the pipes; that is not waited for.
    let rest = |receiver: mpsc::Receiver<Vec<u8>>| {
        let mut bytes = Vec::new();
        let end = Instant::now() + limit;
        loop {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(part) => bytes.extend(part),
                Err(RecvTimeoutError::Disconnected) => return Ok(bytes),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("it has ended, but something that it started holds its output open")
                }
            }
        }
    };
    Ok(Output {
        status,
        stdout: rest(stdout)?,
        stderr: rest(stderr)?,
    })
}

/// Reads a pipe on a thread of its own, so that neither pipe blocks the other.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count) = pipe.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// Runs it and returns its standard output; an error with its standard error when it fails.
pub fn text(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it with `input` as its standard input; an error with its standard error when it fails.
pub fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that failed early has closed its end; its own message below says more than EPIPE.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = output_within(child, ASKED).with_context(|| shown(command))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}\n{input}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Whether a program of this name can be started.
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program of this name is: in `PATH`, or where an administrator's programs are.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A program run as root: directly, or through sudo.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return host(program);
    }
    let mut command = host("sudo");
    command.arg(program);
    command
}

/// Runs this very program again as root, with the same target folder; returns its exit code.
pub fn again_as_root(args: &[&str]) -> Result<u8> {
    let this = crate::paths::this()?;
    let mut command = host("sudo");
    command.arg("env");
    command.arg(format!("CARGO_TARGET_DIR={}", crate::paths::target().display()));
    command
        .arg(format!("{}=1", crate::lab::PREPARED))
        .arg(this)
        .args(args);
    let status = command.status().context("cannot start sudo")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_typed() {
        let mut command = Command::new("curl");
        command.args(["-i", "node-1/demo/hello?a=1&b=2", ""]);
        assert_eq!(shown(&command), "curl -i 'node-1/demo/hello?a=1&b=2' ''");
    }

    #[test]
    fn what_does_not_end_is_killed_with_what_it_started() {
        let start = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let output = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut pid).unwrap();
        let error = wait_within(&mut child, Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("killed"), "{error}");
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while runs() && start.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!runs(), "the shell's child has outlived it");
    }

    #[test]
    fn more_output_than_a_pipe_holds_is_collected() {
        let text =
            text(Command::new("sh").args(["-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"]))
                .unwrap();
        assert_eq!(text.len(), 300_000);
    }

    #[test]
    fn a_failed_command_says_what_and_why() {
        let error = text(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
    }
}
