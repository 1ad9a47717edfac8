// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `portico` binary: parses the command line and calls one function per verb.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    proxy_user::memory::start();
    proxy_user::cli::main()
}
