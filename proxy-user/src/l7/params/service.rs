// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns the whole service.

use super::reader::Reader;
use crate::l7::auth::users::{Wanted, resolve};
use crate::l7::secret::Secret;
use crate::l7::spec::{ServiceSpec, User};

impl Reader<'_> {
    pub(super) fn service(&mut self) -> ServiceSpec {
        let replicas = self.scalar("replicas");
        let mut spec = ServiceSpec {
            service_name: self.text("serviceName"),
            acl_name: self.text("aclName"),
            add_req_header: self.list_or_alias("addReqHeader", "addHeader"),
            set_req_header: self.list_or_alias("setReqHeader", "setHeader"),
            del_req_header: self.list("delReqHeader"),
            add_res_header: self.list("addResHeader"),
            set_res_header: self.list("setResHeader"),
            del_res_header: self.list("delResHeader"),
            backend_extra: self.text("backendExtra"),
            check_resolvers: self.flag("checkResolvers"),
            compression_algo: self.text("compressionAlgo"),
            compression_type: self.text("compressionType"),
            connection_mode: self.text("connectionMode"),
            discovery_type: self.text("discoveryType"),
            distribute: self.flag("distribute"),
            is_default_backend: self.flag("isDefaultBackend"),
            proxy_instance_name: self.text("proxyInstanceName"),
            redirect_when_http_proto: self.flag("redirectWhenHttpProto"),
            redirect_unless_https_proto: self.flag("redirectUnlessHttpsProto"),
            // Absent means a global service; what is not a number means none, as in the original.
            is_global: replicas.is_none(),
            replicas: replicas.map_or(0, |text| text.parse().unwrap_or(0)),
            req_path_search: self.text("reqPathSearch"),
            req_path_replace: self.text("reqPathReplace"),
            service_cert: Secret::new(self.text("serviceCert")),
            service_domain_algo: self.domain_algo(),
            session_type: self.text("sessionType"),
            template_be_path: self.text("templateBePath"),
            template_fe_path: self.text("templateFePath"),
            users: self.users(),
            ..ServiceSpec::default()
        };
        spec.service_dest = self.destinations();
        spec
    }

    fn domain_algo(&self) -> String {
        match self.scalar("serviceDomainAlgo") {
            Some(algo) => algo.into(),
            None if self.flag("serviceDomainMatchAll") => "hdr_dom(host)".into(),
            None => self.defaults.domain_algo.name().into(),
        }
    }

    fn users(&mut self) -> Vec<User> {
        let wanted = Wanted {
            listed: self.scalar("users").unwrap_or_default(),
            secret: self.scalar("usersSecret"),
            encrypted: self.flag("usersPassEncrypted"),
        };
        match resolve(&wanted, self.defaults) {
            Ok(users) => users,
            Err(problem) => {
                self.problems.push(problem);
                Vec::new()
            }
        }
    }
}
