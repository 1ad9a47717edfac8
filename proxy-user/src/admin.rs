//! The agent's own HTTP: JSON for the operator's verbs on a unix socket, metrics on TCP.
