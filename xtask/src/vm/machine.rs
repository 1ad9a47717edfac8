// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual machine: one qemu, whose guest runs a list of steps and powers itself off.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::{Kernel, Lacks, fetch, guest, initramfs};
use crate::{cmd, paths, progress::step, signals};

const QEMU: &str = "qemu-system-x86_64";
/// How often output and state are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// IPVS as it is set up for many connections: 2^20 chains of them instead of 2^12, which a million connections would
/// make 244 long (net/netfilter/ipvs/Kconfig, `IP_VS_TAB_BITS`).
const IPVS_BUCKETS: &str = "ip_vs.conn_tab_bits=20";
/// A guest with KVM is up in three seconds; one that is not by now never will be.
const KVM_PATIENCE: Duration = Duration::from_secs(20);

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// The processor where a guest boots that way, otherwise emulation
    Auto,
    /// The processor, through /dev/kvm
    Kvm,
    /// Emulation: slow, but works everywhere
    Tcg,
}

/// A command of the guest.
pub struct Step {
    pub name: String,
    /// Program and arguments; NAME=VALUE words may stand before the program.
    pub command: Vec<String>,
}

impl Step {
    /// A step with the given command line.
    pub fn new(name: &str, command: &[String]) -> Step {
        Step {
            name: name.to_owned(),
            command: command.to_vec(),
        }
    }
}

/// What to boot.
pub struct Machine {
    pub kernel: Kernel,
    pub accelerator: Accelerator,
    /// MiB.
    pub memory: u32,
    pub cpus: u32,
    /// One processor whose clock advances 2^this nanoseconds per instruction, whatever the host does; emulated.
    pub counted: Option<u32>,
    /// A folder of the host that the guest can write to.
    pub share: Option<PathBuf>,
}

/// Of a step's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Output,
    Error,
}

/// Where a step's output goes while it runs: the step's number, the stream, and what has come.
pub type Sink<'a> = &'a mut dyn FnMut(usize, Stream, &[u8]);

/// What became of the steps.
pub struct Ended {
    codes: Vec<Option<u8>>,
    /// The end of the kernel's own messages.
    console: String,
}

impl Ended {
    /// A step's exit code; an error when the machine ended before the step did.
    pub fn code(&self, step: usize) -> Result<u8> {
        match self.codes.get(step).copied().flatten() {
            Some(code) => Ok(code),
            None => bail!(
                "the guest ended before its command did; its console:\n{}",
                self.console
            ),
        }
    }
}

impl Machine {
    /// Two processors and memory enough for the embedded lab.
    pub fn new(kernel: Kernel) -> Machine {
        Machine {
            kernel,
            accelerator: Accelerator::Auto,
            memory: 3072,
            cpus: 2,
            counted: None,
            share: None,
        }
    }

    /// Boots, runs the steps, powers off. Every part of a step's output is given to `sink` as it comes.
    pub fn run(&self, steps: &[Step], deadline: Duration, sink: Sink) -> Result<Ended> {
        require_qemu()?;
        let tree = fetch::tree(self.kernel, false)?;
        let folder = Folder::new()?;
        let archive = initramfs::build(&tree, &folder.0)?;
        if self.share.is_some() {
            fs::create_dir_all(folder.exchange().join("share"))?;
        }
        let here = std::env::current_dir().context("the current folder")?;
        let script = guest::script(&tree.release, steps, &here, self.share.is_some());
        fs::write(folder.exchange().join("guest"), script)?;
        let mut emulated = self.emulated();
        loop {
            step(format!(
                "boot {} ({})",
                tree.package,
                if emulated { "emulated" } else { "KVM" }
            ));
            let mut qemu = self.start(&tree, &archive, &folder, emulated)?;
            let watched = Watch::new(&folder, steps.len()).until_end(&mut qemu, emulated, deadline, sink);
            // Also after an error or Ctrl-C: nothing of the machine stays behind.
            let _ = qemu.kill().and_then(|()| qemu.wait());
            match watched? {
                End::PoweredOff => return folder.ended(steps.len()),
                End::NeverBooted if self.accelerator == Accelerator::Kvm => bail!(
                    "the guest did not come up with KVM within {} s; its console:\n{}",
                    KVM_PATIENCE.as_secs(),
                    folder.console()
                ),
                End::NeverBooted => {
                    step("/dev/kvm is there, but a guest does not come up with it: emulation from now on");
                    remember_broken_kvm()?;
                    emulated = true;
                }
            }
        }
    }

    fn emulated(&self) -> bool {
        match self.accelerator {
            _ if self.counted.is_some() => true,
            Accelerator::Tcg => true,
            Accelerator::Kvm => false,
            Accelerator::Auto => !kvm_usable() || broken_kvm(),
        }
    }

    fn start(&self, tree: &fetch::Tree, archive: &Path, folder: &Folder, emulated: bool) -> Result<Child> {
        let mut command = cmd::host(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-machine", "q35", "-cpu", "max", "-m", &self.memory.to_string()]);
        let cpus = if self.counted.is_some() { 1 } else { self.cpus };
        command.args(["-smp", &cpus.to_string()]);
        match (self.counted, emulated) {
            (Some(shift), _) => {
                let icount = format!("shift={shift},sleep=off");
                command.args(["-accel", "tcg,thread=single", "-icount", &icount])
            }
            (None, true) => command.args(["-accel", "tcg,thread=multi"]),
            (None, false) => command.args(["-accel", "kvm"]),
        };
        command.arg("-kernel").arg(tree.image());
        command.arg("-initrd").arg(archive);
        // Messages of warnings and worse go to the console; a panic ends the machine.
        let arguments = format!("console=ttyS0 quiet loglevel=5 panic=-1 {IPVS_BUCKETS}");
        command.args(["-append", &arguments]);
        command
            .arg("-serial")
            .arg(format!("file:{}", qemu_path(&folder.0.join("console"))));
        let mut shares = vec![
            ("root", PathBuf::from("/"), "on"),
            ("modules", tree.modules(), "on"),
            ("exchange", folder.exchange(), "off"),
        ];
        if let Some(share) = &self.share {
            let share = share
                .canonicalize()
                .with_context(|| share.display().to_string())?;
            shares.push(("share", share, "off"));
        }
        for (tag, path, readonly) in shares {
            command.arg("-virtfs").arg(format!(
                // remap: inode numbers of several file systems under one root would collide.
                "local,path={},mount_tag={tag},security_model=none,readonly={readonly},multidevs=remap",
                qemu_path(&path)
            ));
        }
        let log = folder.0.join("qemu");
        let log = fs::File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        dies_with_us(&mut command);
        command.spawn().with_context(|| format!("cannot start {QEMU}"))
    }
}

/// Whether machines can be run here; the error says what is missing.
pub fn require_qemu() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Lacks {
            what: "the kernels are for x86-64 machines".to_owned(),
            how: "run this on one".to_owned(),
        }
        .into());
    }
    if !cmd::exists(QEMU) {
        return Err(Lacks {
            what: format!("{QEMU} is missing"),
            how: "`cargo xtask setup` installs qemu-system-x86".to_owned(),
        }
        .into());
    }
    Ok(())
}

/// In qemu's options a comma separates.
fn qemu_path(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The kernel kills it when this process is killed without a chance to do so itself.
fn dies_with_us(command: &mut Command) {
    // SAFETY: between fork and exec, prctl and getppid are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

// --- KVM -----------------------------------------------------------------------------------------------------

fn kvm_usable() -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// Some machines have the device and yet no guest boots. It is tried once per boot of the machine.
fn broken_kvm_mark() -> Result<PathBuf> {
    Ok(fetch::cache()?.join("kvm-does-not-boot"))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn broken_kvm() -> bool {
    let mark = broken_kvm_mark().and_then(|path| Ok(fs::read_to_string(path)?));
    mark.is_ok_and(|mark| mark == boot_id())
}

fn remember_broken_kvm() -> Result<()> {
    let path = broken_kvm_mark()?;
    fs::write(&path, boot_id()).with_context(|| path.display().to_string())
}

// --- the folder of one run -----------------------------------------------------------------------------------

/// Initramfs, console, and what host and guest say to each other; removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let all = paths::target().join("vm");
        let folder = all.join(std::process::id().to_string());
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            // Left by a process that was killed, perhaps one that had our number.
            let owner = Path::new("/proc").join(entry.file_name());
            if !owner.exists() || entry.path() == folder {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        fs::create_dir_all(folder.join("exchange")).with_context(|| folder.display().to_string())?;
        Ok(Folder(folder))
    }

    fn exchange(&self) -> PathBuf {
        self.0.join("exchange")
    }

    fn console(&self) -> String {
        let read = |name| fs::read(self.0.join(name)).unwrap_or_default();
        let bytes = [read("qemu"), read("console")].concat();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }

    fn ended(&self, steps: usize) -> Result<Ended> {
        let code = |step| {
            let text = fs::read_to_string(self.exchange().join(format!("{step}.code"))).ok()?;
            // A shell reports a program that a signal has ended as 128 plus the signal's number.
            text.trim().parse().ok()
        };
        Ok(Ended {
            codes: (0..steps).map(code).collect(),
            console: self.console(),
        })
    }
}

/// A panic with its backtrace fits.
const CONSOLE_LINES: usize = 60;

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// --- while it runs -------------------------------------------------------------------------------------------

enum End {
    PoweredOff,
    NeverBooted,
}

/// Reads what the steps print, from the files that the guest writes it to.
struct Watch<'a> {
    folder: &'a Folder,
    steps: usize,
    /// Bytes already read of each step's two streams.
    read: Vec<[u64; 2]>,
}

impl Watch<'_> {
    fn new(folder: &Folder, steps: usize) -> Watch<'_> {
        Watch {
            folder,
            steps,
            read: vec![[0; 2]; steps],
        }
    }

    fn until_end(&mut self, qemu: &mut Child, emulated: bool, deadline: Duration, sink: Sink) -> Result<End> {
        let start = Instant::now();
        let mut booted = false;
        loop {
            let status = qemu.try_wait().context("qemu")?;
            booted = booted || self.folder.exchange().join("booted").exists();
            self.forward(sink)?;
            signals::check()?;
            if let Some(status) = status {
                return match (booted, emulated, status.success()) {
                    (false, false, _) => Ok(End::NeverBooted),
                    (false, true, _) => bail!("the guest did not come up:\n{}", self.folder.console()),
                    (true, _, true) => Ok(End::PoweredOff),
                    (true, _, false) => bail!("{QEMU} failed ({status}):\n{}", self.folder.console()),
                };
            }
            if !booted && !emulated && start.elapsed() > KVM_PATIENCE {
                return Ok(End::NeverBooted);
            }
            if start.elapsed() > deadline {
                bail!(
                    "not done after {} s, so the machine was ended; its console:\n{}",
                    deadline.as_secs(),
                    self.folder.console()
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// What has come since the last look, step by step.
    fn forward(&mut self, sink: Sink) -> Result<()> {
        for step in 0..self.steps {
            for (stream, suffix) in [(Stream::Output, "out"), (Stream::Error, "err")] {
                let path = self.folder.exchange().join(format!("{step}.{suffix}"));
                let Ok(mut file) = fs::File::open(&path) else {
                    continue;
                };
                let read = &mut self.read[step][stream as usize];
                file.seek(SeekFrom::Start(*read))?;
                let mut bytes = Vec::new();
                *read += file.read_to_end(&mut bytes)? as u64;
                if !bytes.is_empty() {
                    sink(step, stream, &bytes);
                }
            }
        }
        Ok(())
    }
}
