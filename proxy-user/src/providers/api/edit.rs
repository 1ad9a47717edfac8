// SPDX-License-Identifier: MIT OR Apache-2.0
//! Edits: what one verb does to the kept state. Pure.
//!
//! Every edit can be repeated: adding what is there as it is, and removing what is not there, change nothing.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{BACKENDS_MAX, BackendSpec, SERVICES_MAX, ServiceSpec};

/// Services by name.
pub(super) type Services = BTreeMap<String, ServiceSpec>;

/// One verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Edit {
    /// Adds a service; with backends or without.
    AddService {
        /// Its name.
        service: String,
        /// What it is.
        #[serde(default)]
        spec: Box<ServiceSpec>,
    },
    /// Changes the fields that are given; `null` gives a field its default back.
    SetService {
        /// Its name.
        service: String,
        /// Fields of [`ServiceSpec`].
        fields: Map<String, Value>,
    },
    /// Removes a service with its backends.
    RemoveService {
        /// Its name.
        service: String,
    },
    /// Adds a backend.
    AddBackend {
        /// The service.
        service: String,
        /// `ADDRESS:PORT`.
        backend: String,
        /// How it serves.
        #[serde(default)]
        spec: BackendSpec,
    },
    /// Changes the fields of a backend that are given.
    SetBackend {
        /// The service.
        service: String,
        /// `ADDRESS:PORT`.
        backend: String,
        /// Fields of [`BackendSpec`].
        fields: Map<String, Value>,
    },
    /// Removes a backend.
    RemoveBackend {
        /// The service.
        service: String,
        /// `ADDRESS:PORT`.
        backend: String,
    },
}

/// Why an edit was not done.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A field is wrong.
    #[error("{0}")]
    Wrong(String),
    /// There is no such object.
    #[error("{0}")]
    Missing(String),
    /// It is there already, and not as wanted.
    #[error("{0}")]
    Exists(String),
    /// Another provider has it.
    #[error("service '{service}' belongs to the provider '{owner}': {how}")]
    Owned {
        /// The service.
        service: String,
        /// `file` or `docker`.
        owner: String,
        /// What to do instead.
        how: String,
    },
    /// The disk.
    #[error("{0}; nothing has changed")]
    Disk(String),
}

impl Edit {
    /// The service that it is about.
    pub fn service(&self) -> &str {
        match self {
            Edit::AddService { service, .. }
            | Edit::SetService { service, .. }
            | Edit::RemoveService { service }
            | Edit::AddBackend { service, .. }
            | Edit::SetBackend { service, .. }
            | Edit::RemoveBackend { service, .. } => service,
        }
    }

    /// Does it; whether anything changed.
    pub(super) fn apply(&self, services: &mut Services) -> Result<bool, EditError> {
        match self {
            Edit::AddService { service, spec } => add_service(services, service, spec),
            Edit::SetService { service, fields } => {
                let old = existing(services, service)?;
                replace(old, merged(old, fields)?)
            }
            Edit::RemoveService { service } => Ok(services.remove(service).is_some()),
            Edit::AddBackend {
                service,
                backend,
                spec,
            } => add_backend(existing(services, service)?, service, backend, *spec),
            Edit::SetBackend {
                service,
                backend,
                fields,
            } => {
                let name = canonical(backend)?;
                let old = existing(services, service)?
                    .backends
                    .get_mut(&name)
                    .ok_or_else(|| {
                        EditError::Missing(format!(
                            "service '{service}' has no backend {name}; add it with `portico backend add {service} {name}`"
                        ))
                    })?;
                replace(old, merged(old, fields)?)
            }
            Edit::RemoveBackend { service, backend } => {
                let name = canonical(backend)?;
                let known = services.get_mut(service);
                Ok(known.is_some_and(|known| known.backends.remove(&name).is_some()))
            }
        }
    }
}

fn existing<'a>(services: &'a mut Services, name: &str) -> Result<&'a mut ServiceSpec, EditError> {
    services.get_mut(name).ok_or_else(|| {
        EditError::Missing(format!(
            "there is no service '{name}'; add it with `portico service add {name}`"
        ))
    })
}

fn add_service(services: &mut Services, name: &str, spec: &ServiceSpec) -> Result<bool, EditError> {
    let mut spec = spec.clone();
    let backends = std::mem::take(&mut spec.backends);
    for (backend, how) in backends {
        spec.backends.insert(canonical(&backend)?, how);
    }
    if spec.backends.len() > BACKENDS_MAX {
        return Err(too_many_backends(name));
    }
    if let Some(old) = services.get(name) {
        let mut comparable = old.clone();
        if spec.backends.is_empty() {
            comparable.backends.clear();
        }
        if comparable == spec {
            return Ok(false);
        }
        return Err(EditError::Exists(format!(
            "service '{name}' exists and is different; change it with `portico service set {name}`"
        )));
    }
    if services.len() >= SERVICES_MAX {
        return Err(EditError::Wrong(format!(
            "more than {SERVICES_MAX} services (api::SERVICES_MAX); describe them in a file (portico node --config)"
        )));
    }
    services.insert(name.into(), spec);
    Ok(true)
}

fn add_backend(
    service: &mut ServiceSpec,
    name: &str,
    backend: &str,
    spec: BackendSpec,
) -> Result<bool, EditError> {
    let key = canonical(backend)?;
    match service.backends.get(&key) {
        Some(old) if *old == spec => Ok(false),
        Some(_) => Err(EditError::Exists(format!(
            "backend {key} exists and is different; change it with `portico backend set {name} {key}`"
        ))),
        None if service.backends.len() >= BACKENDS_MAX => Err(too_many_backends(name)),
        None => {
            service.backends.insert(key, spec);
            Ok(true)
        }
    }
}

fn too_many_backends(service: &str) -> EditError {
    EditError::Wrong(format!(
        "more than {BACKENDS_MAX} backends of service '{service}' (api::BACKENDS_MAX)"
    ))
}

/// One spelling per backend.
fn canonical(backend: &str) -> Result<String, EditError> {
    let address: Result<SocketAddr, _> = backend.parse();
    address.map(|address| address.to_string()).map_err(|_| {
        EditError::Wrong(format!(
            "'{backend}' is not ADDRESS:PORT (for example 10.0.0.7:8080)"
        ))
    })
}

/// JSON merge patch (RFC 7396) over one object's fields.
fn merged<T: Serialize + DeserializeOwned>(old: &T, fields: &Map<String, Value>) -> Result<T, EditError> {
    let wrong = |error: serde_json::Error| EditError::Wrong(error.to_string());
    let mut value = serde_json::to_value(old).map_err(wrong)?;
    for (field, new) in fields {
        if new.is_null() {
            value.as_object_mut().map(|object| object.remove(field));
        } else {
            value[field] = new.clone();
        }
    }
    serde_json::from_value(value).map_err(wrong)
}

fn replace<T: PartialEq>(old: &mut T, new: T) -> Result<bool, EditError> {
    let changed = *old != new;
    *old = new;
    Ok(changed)
}
