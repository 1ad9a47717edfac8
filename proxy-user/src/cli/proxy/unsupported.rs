// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables of the original that are not honoured.

use crate::cli::Exit;

/// Variables that protect something must not be ignored; those that only tune something are named in the log.
pub(super) fn refuse(get: &dyn Fn(&str) -> Option<String>) -> Result<(), Exit> {
    let is_set = |name: &&&str| get(name).is_some_and(|value| !value.is_empty());
    const REFUSED: [&str; 4] = ["CA_FILE", "CRT_LIST_PATH", "EXTRA_FRONTEND", "EXTRA_GLOBAL"];
    if let Some(name) = REFUSED.iter().find(is_set) {
        return Err(Exit::Usage(format!(
            "{name} is not supported yet, and the proxy would behave otherwise without it"
        )));
    }
    const BY_CALL: &str = "its services are not routed; configure them by calling reconfigure";
    const IGNORED: [(&str, &str); 3] = [
        (
            "LISTENER_ADDRESS",
            "the listener is not asked for its services, so those that it does not send by itself are not routed",
        ),
        ("DFP_SERVICE_SERVICE_NAME", BY_CALL),
        ("DFP_SERVICE_1_SERVICE_NAME", BY_CALL),
    ];
    for (name, effect) in IGNORED.iter().filter(|(name, _)| is_set(&name)) {
        tracing::error!("{name} is not supported yet: {effect}");
    }
    Ok(())
}
