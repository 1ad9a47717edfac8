// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting other programs, with errors that say what was run and what it answered.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

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

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs it with this process's output; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs it and collects its output, whatever its exit code.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))
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
    let output = child.wait_with_output()?;
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
    let this = std::env::current_exe().context("own path")?;
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
    fn a_failed_command_says_what_and_why() {
        let error = text(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
    }
}
