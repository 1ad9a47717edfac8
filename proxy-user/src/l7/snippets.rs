// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raw lines of HAProxy's configuration: none is taken, and many have a native setting to use instead.

/// Beginnings of lines, in lower case, and what says the same here. The longest that fits counts.
const NATIVE: &[(&str, &str)] = &[
    (
        "http-request deny",
        "use denyHttp, allowedMethods, deniedMethods, allowIp or denyIp",
    ),
    ("http-request tarpit", "use denyIp"),
    ("http-request allow", "use allowIp"),
    ("http-request auth", "use users or usersSecret"),
    ("http-request add-header", "use addReqHeader"),
    ("http-request set-header", "use setReqHeader"),
    ("http-request del-header", "use delReqHeader"),
    ("http-request replace-header", "use setReqHeader"),
    ("http-request set-path", "use reqPathSearchReplace"),
    ("http-request set-uri", "use reqPathSearchReplace"),
    ("http-request replace-path", "use reqPathSearchReplace"),
    ("http-request replace-uri", "use reqPathSearchReplace"),
    (
        "http-request redirect",
        "use httpsOnly, redirectWhenHttpProto or redirectFromDomain",
    ),
    ("http-request capture", "use CAPTURE_REQUEST_HEADER"),
    (
        "http-request set-src",
        "use `accept-proxy` behind a port in DEFAULT_PORTS",
    ),
    ("http-response add-header", "use addResHeader"),
    ("http-response set-header", "use setResHeader"),
    ("http-response del-header", "use delResHeader"),
    ("http-response replace-header", "use setResHeader"),
    (
        "tcp-request connection reject",
        "use denyIp, or PORTICO_DENY_IP for every service",
    ),
    (
        "tcp-request connection accept",
        "use allowIp, or PORTICO_ALLOW_IP for every service",
    ),
    (
        "tcp-request connection expect-proxy",
        "use `accept-proxy` behind a port in DEFAULT_PORTS",
    ),
    (
        "tcp-request content reject",
        "use denyIp, or PORTICO_DENY_IP for every service",
    ),
    (
        "redirect",
        "use httpsOnly, redirectWhenHttpProto or redirectFromDomain",
    ),
    ("reqadd", "use addReqHeader"),
    ("reqidel", "use delReqHeader"),
    ("reqdel", "use delReqHeader"),
    ("reqrep", "use reqPathSearchReplace"),
    ("reqirep", "use reqPathSearchReplace"),
    ("reqdeny", "use denyHttp, deniedMethods or denyIp"),
    ("reqideny", "use denyHttp, deniedMethods or denyIp"),
    ("rspadd", "use addResHeader"),
    ("rspdel", "use delResHeader"),
    ("rspidel", "use delResHeader"),
    ("rsprep", "use setResHeader"),
    (
        "timeout server",
        "use timeoutServer, or TIMEOUT_SERVER for every service",
    ),
    (
        "timeout tunnel",
        "use timeoutTunnel, or TIMEOUT_TUNNEL for every service",
    ),
    (
        "timeout client",
        "use timeoutClient, or TIMEOUT_CLIENT for every service",
    ),
    ("timeout connect", "use TIMEOUT_CONNECT"),
    ("timeout queue", "use TIMEOUT_QUEUE"),
    ("timeout http-request", "use TIMEOUT_HTTP_REQUEST"),
    ("timeout http-keep-alive", "use TIMEOUT_HTTP_KEEP_ALIVE"),
    ("compression", "use compressionAlgo and compressionType"),
    ("filter compression", "use compressionAlgo and compressionType"),
    ("cookie", "use sessionType=sticky-server"),
    ("stick", "use sessionType=sticky-server"),
    ("appsession", "use sessionType=sticky-server"),
    ("option http-keep-alive", "use connectionMode=http-keep-alive"),
    ("option http-server-close", "use connectionMode=http-server-close"),
    ("option httpclose", "use connectionMode=http-server-close"),
    ("option forceclose", "use connectionMode=http-server-close"),
    (
        "option forwardfor",
        "leave it out: X-Forwarded-For is always added",
    ),
    (
        "option redispatch",
        "leave it out: a connection that fails is tried again",
    ),
    ("option clitcpka", "use clitcpka"),
    ("option tcp-check", "use checkTcp"),
    ("option httplog", "use DEBUG"),
    (
        "option dontlognull",
        "leave it out: a connection without a request is not logged",
    ),
    (
        "use_backend",
        "use servicePath, serviceDomain, serviceHeader or userAgent",
    ),
    ("default_backend", "use isDefaultBackend"),
    (
        "acl",
        "use servicePath, serviceDomain, serviceHeader or userAgent",
    ),
    ("bind", "use BIND_PORTS"),
    ("mode", "use reqMode"),
    ("errorfile", "put the page into /errorfiles"),
    ("capture request header", "use CAPTURE_REQUEST_HEADER"),
    ("log", "use DEBUG"),
    ("stats", "use STATS_USER, STATS_PASS, STATS_URI and STATS_PORT"),
    ("maxconn", "use PORTICO_CONNECTIONS_MAX"),
    ("nbthread", "use PORTICO_WORKERS"),
    ("nbproc", "use PORTICO_WORKERS"),
    ("ssl-default-bind-options", "use SSL_BIND_OPTIONS"),
    ("ssl-default-bind-ciphers", "use SSL_BIND_CIPHERS"),
    ("ca-base", "use CA_FILE"),
    ("userlist", "use users, usersSecret or USERS"),
    ("user ", "use users, usersSecret or USERS"),
    ("resolvers", "use RESOLVERS"),
    ("nameserver", "use RESOLVERS"),
    ("server", "use outboundHostname and port"),
];

/// Why these lines are not taken, and what to use instead of the first of them.
pub fn refusal(lines: &[&str]) -> String {
    let line = lines
        .iter()
        .map(|line| line.trim())
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    // A line may hold anything, but its first two words are a keyword of HAProxy's.
    let keyword: Vec<&str> = line.split_whitespace().take(2).collect();
    let keyword = keyword.join(" ");
    match native(line) {
        Some(instead) => {
            format!("lines of HAProxy's configuration are not read; instead of `{keyword}` {instead}")
        }
        None => format!(
            "lines of HAProxy's configuration are not read, and nothing here does what `{keyword}` does"
        ),
    }
}

fn native(line: &str) -> Option<&'static str> {
    let words: Vec<String> = line.split_whitespace().map(str::to_ascii_lowercase).collect();
    let line = format!("{} ", words.join(" "));
    NATIVE
        .iter()
        .filter(|(start, _)| {
            line.strip_prefix(start)
                .is_some_and(|rest| start.ends_with(' ') || rest.starts_with([' ', '-', '_']))
        })
        .max_by_key(|(start, _)| start.len())
        .map(|(_, instead)| *instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_an_equivalent_names_it() {
        for (line, setting) in [
            ("http-request deny if { src 10.0.0.0/8 }", "denyIp"),
            ("  HTTP-Request   Deny", "denyHttp"),
            ("timeout server 20s", "timeoutServer"),
            ("timeout server-fin 20s", "timeoutServer"),
            ("compression algo gzip", "compressionAlgo"),
            ("http-response set-header X-A b", "setResHeader"),
            ("stick-table type ip size 1m", "sessionType"),
            ("\n\noption forwardfor", "X-Forwarded-For"),
        ] {
            let lines: Vec<&str> = line.lines().collect();
            assert!(refusal(&lines).contains(setting), "{line}: {}", refusal(&lines));
        }
    }

    #[test]
    fn a_line_without_one_says_so_and_is_not_repeated_whole() {
        let text = refusal(&["tune.bufsize 32768 secret"]);
        assert!(text.contains("nothing here does what `tune.bufsize 32768`") && !text.contains("secret"));
        // A keyword is a word.
        assert!(native("logger").is_none() && native("modes").is_none());
    }
}
