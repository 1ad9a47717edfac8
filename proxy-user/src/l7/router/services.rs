// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services in the order of precedence, in pieces that successive snapshots share.
//!
//! A change copies one piece and the list of pieces, not a reference to each of 10 000 services.

use std::cmp::Ordering;
use std::sync::Arc;

use super::CompiledService;

/// Services of one piece: with 10 000 services a change copies at most 128 + 10 000 / 64 references.
const PIECE_MAX: usize = 128;

/// Services by their order; no two are equal in it.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// None is empty.
    pieces: Vec<Arc<Piece>>,
}

#[derive(Debug)]
struct Piece {
    services: Vec<Arc<CompiledService>>,
    /// One has a rule for what no other takes.
    has_default: bool,
    /// One has destinations in modes tcp and sni.
    has_streams: bool,
}

impl Piece {
    fn new(services: Vec<Arc<CompiledService>>) -> Arc<Self> {
        let any = |is: fn(&CompiledService) -> bool| services.iter().any(|service| is(service));
        Arc::new(Piece {
            has_default: any(|service| service.rules.iter().any(|rule| rule.is_default)),
            has_streams: any(|service| !service.streams.is_empty()),
            services,
        })
    }
}

impl Services {
    /// Of services in any order.
    pub fn new(mut services: Vec<Arc<CompiledService>>) -> Self {
        services.sort_by(|a, b| a.order(b));
        // Half full, so that there is room.
        let pieces = services.chunks(PIECE_MAX / 2);
        Services {
            pieces: pieces.map(|piece| Piece::new(piece.to_vec())).collect(),
        }
    }

    /// The same without `gone` and with `came`.
    #[must_use]
    pub fn changed(&self, gone: Option<&Arc<CompiledService>>, came: Option<&Arc<CompiledService>>) -> Self {
        let mut pieces = self.pieces.clone();
        if let Some(gone) = gone {
            edit(&mut pieces, gone, |services, at| {
                if services.get(at).is_some_and(|service| Arc::ptr_eq(service, gone)) {
                    services.remove(at);
                }
            });
        }
        if let Some(came) = came {
            edit(&mut pieces, came, |services, at| {
                services.insert(at, came.clone())
            });
        }
        Services { pieces }
    }

    /// In their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<CompiledService>> {
        self.pieces.iter().flat_map(|piece| &piece.services)
    }

    /// The same, but for those that certainly have no destination in modes tcp and sni.
    pub fn with_streams(&self) -> impl Iterator<Item = &Arc<CompiledService>> {
        let pieces = self.pieces.iter().filter(|piece| piece.has_streams);
        pieces.flat_map(|piece| &piece.services)
    }

    /// The last rule that wants what no other takes, by its number.
    pub fn default_rule(&self) -> Option<(Arc<CompiledService>, usize)> {
        let pieces = self.pieces.iter().rev().filter(|piece| piece.has_default);
        pieces
            .flat_map(|piece| piece.services.iter().rev())
            .find_map(|service| {
                let rule = service.rules.iter().rposition(|rule| rule.is_default)?;
                Some((service.clone(), rule))
            })
    }
}

/// Lets `change` have the services of the piece where `service` is or would be, and its place there.
fn edit(
    pieces: &mut Vec<Arc<Piece>>,
    service: &CompiledService,
    change: impl FnOnce(&mut Vec<Arc<CompiledService>>, usize),
) {
    let is_before = |piece: &Arc<Piece>| {
        (piece.services.first()).is_some_and(|first| first.order(service) != Ordering::Greater)
    };
    // The last one that begins before it or with it.
    let which = pieces.partition_point(is_before).saturating_sub(1);
    let mut services = pieces
        .get(which)
        .map_or_else(Vec::new, |piece| piece.services.clone());
    let at = services.partition_point(|other| other.order(service) == Ordering::Less);
    change(&mut services, at);
    let parts = match services.len() {
        0 => Vec::new(),
        length if length > PIECE_MAX => {
            let rest = services.split_off(length / 2);
            vec![Piece::new(services), Piece::new(rest)]
        }
        _ => vec![Piece::new(services)],
    };
    pieces.splice(which..(which + 1).min(pieces.len()), parts);
}

#[cfg(test)]
mod tests {
    use super::super::SortKey;
    use super::*;

    fn service(name: usize) -> Arc<CompiledService> {
        Arc::new(CompiledService {
            name: name.to_string().into(),
            sort: SortKey(1, format!("{name:06}").into()),
            rules: Vec::new(),
            redirects: Vec::new(),
            streams: Vec::new(),
        })
    }

    #[test]
    fn changes_one_by_one_come_to_the_same_as_a_new_list() {
        let mut services = Services::default();
        let mut known = std::collections::BTreeMap::new();
        let mut random = 1_usize;
        let mut pieces_max = 0;
        for step in 0..6000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let name = (random >> 33) % 700;
            // First more come than go, then the reverse.
            let stays = (random >> 50) % 4 > if step < 3000 { 0 } else { 2 };
            let came = stays.then(|| service(name));
            let gone = match &came {
                Some(came) => known.insert(name, came.clone()),
                None => known.remove(&name),
            };
            services = services.changed(gone.as_ref(), came.as_ref());
            pieces_max = pieces_max.max(services.pieces.len());
            assert!(
                services
                    .pieces
                    .iter()
                    .all(|piece| (1..=PIECE_MAX).contains(&piece.services.len()))
            );
            if step % 50 == 0 {
                let new = Services::new(known.values().cloned().collect());
                assert!(services.iter().map(Arc::as_ptr).eq(new.iter().map(Arc::as_ptr)));
            }
        }
        assert!(pieces_max > 5, "{pieces_max}");
    }
}
