// SPDX-License-Identifier: MIT OR Apache-2.0
//! Redirects that come before every rule of every service.

use super::Shared;
use super::matcher::{domains, words};
use super::values::redirect_status;
use crate::l7::domain::DomainAlgo;
use crate::l7::params::Problem;
use crate::l7::router::{CompiledService, FrontRedirect, Matcher, RedirectWhen};
use crate::l7::spec::DestSpec;

impl Shared<'_> {
    pub(super) fn front_redirects(
        &self,
        dest: &DestSpec,
        service: &mut CompiledService,
    ) -> Result<(), Problem> {
        let from = dest.redirect_from_domain.as_deref().unwrap_or_default();
        if !from.is_empty() {
            // Without a target the original redirects everything it serves.
            let to = words(dest.domains())
                .next()
                .ok_or_else(|| Problem::new("redirectFromDomain", "needs serviceDomain"))?;
            let when = RedirectWhen::Domain {
                from: domains("redirectFromDomain", from, DomainAlgo::Begins)?,
                to: to.trim_start_matches('*').trim_start_matches('.').into(),
            };
            service.redirects.push(FrontRedirect { when, status: 301 });
        }
        let protos = [
            (self.spec.redirect_when_http_proto, false),
            (self.spec.redirect_unless_https_proto, true),
        ];
        for (_, unless_https) in protos
            .into_iter()
            .filter(|(wanted, _)| *wanted && !dest.port.is_empty())
        {
            let whole = self.matcher(dest, dest.src_port)?;
            let matcher = Matcher {
                paths: whole.paths,
                domains: whole.domains,
                port: whole.port,
                ..Matcher::default()
            };
            let when = RedirectWhen::ForwardedProto {
                matcher,
                unless_https,
            };
            service.redirects.push(FrontRedirect {
                when,
                status: redirect_status(&dest.https_redirect_code)?,
            });
        }
        Ok(())
    }
}
