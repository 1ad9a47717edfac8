// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `portico` binary: parses the command line and calls one function per verb.
fn main() -> std::process::ExitCode {
    proxy_user::cli::main()
}
