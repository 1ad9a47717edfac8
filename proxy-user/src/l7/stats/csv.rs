// SPDX-License-Identifier: MIT OR Apache-2.0
//! HAProxy's statistics as CSV. What does not exist here is an empty field, as HAProxy leaves what does not apply.

use super::rows::{Kind, Row};

const HEADER: &str = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,\
status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,\
rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,\
req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt,";

/// All rows.
pub fn render(rows: &[Row]) -> String {
    let columns: Vec<&str> = HEADER.trim_start_matches("# ").split(',').collect();
    let mut out = String::from(HEADER);
    out.push('\n');
    for (at, row) in rows.iter().enumerate() {
        for column in &columns[..columns.len() - 1] {
            out.push_str(&field(row, column, at));
            out.push(',');
        }
        out.push('\n');
    }
    out
}

fn field(row: &Row, column: &str, at: usize) -> String {
    let is_frontend = row.kind == Kind::Frontend;
    let number = match column {
        // A comma in a name would shift every column behind it.
        "pxname" => return row.proxy.replace([',', '"', '\n'], "_"),
        "svname" => return row.server.replace([',', '"', '\n'], "_"),
        "status" => return row.status().into(),
        "qcur" if !is_frontend => row.queue,
        "qmax" if !is_frontend => row.queue_max,
        "wretr" if !is_frontend => row.retries,
        "wredis" if !is_frontend => row.redispatches,
        "chkfail" | "check_duration" | "downtime" => {
            let seen = row.checks.filter(|_| row.kind == Kind::Server);
            return seen.map_or_else(String::new, |seen| {
                let number = match column {
                    "chkfail" => seen.failures,
                    "downtime" => seen.downtime.as_secs(),
                    _ => seen.took.as_millis() as u64,
                };
                number.to_string()
            });
        }
        "scur" => row.sessions,
        "smax" => row.sessions_max,
        "slim" => {
            return row
                .sessions_limit
                .map_or_else(String::new, |limit| limit.to_string());
        }
        "stot" => row.total,
        "bin" => row.bytes_in,
        "bout" => row.bytes_out,
        "dreq" if row.kind != Kind::Server => row.denied,
        "ereq" if is_frontend => row.errors,
        "econ" if !is_frontend => row.connection_errors,
        "eresp" if !is_frontend => row.response_errors,
        "weight" | "act" if !is_frontend => 1,
        "bck" if !is_frontend => 0,
        "pid" => 1,
        "iid" | "sid" => at as u64,
        "lbtot" if !is_frontend => row.total,
        "type" => match row.kind {
            Kind::Frontend => 0,
            Kind::Backend => 1,
            Kind::Server => 2,
        },
        "rate" | "req_rate" => row.rate.now,
        "rate_max" | "req_rate_max" => row.rate.max,
        "rate_lim" if is_frontend => 0,
        "hrsp_other" => row.responses[0],
        "req_tot" if row.kind != Kind::Server => row.requests,
        column => match column
            .strip_prefix("hrsp_")
            .and_then(|class| class.get(..1)?.parse::<usize>().ok())
        {
            Some(class) => row.responses[class],
            None => return String::new(),
        },
    };
    number.to_string()
}
