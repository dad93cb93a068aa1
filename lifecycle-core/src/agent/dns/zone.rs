//! Answers DNS queries from a table, without I/O.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use crate::model::PlatformName;
use crate::network::{Block, Table};

/// The time to live of an answer, in seconds. Short, because the address of a removed service may
/// be reassigned.
const TTL: u32 = 10;

/// The times of the zone's SOA record, in seconds. There are no secondary servers, which would use
/// them.
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// The maximum UDP payload size that EDNS answers announce, as RFC 9715 recommends.
const PAYLOAD: u16 = 1232;

/// The domain for reverse lookups of IPv4 addresses.
const REVERSE: &str = ".in-addr.arpa";

#[derive(Debug)]
pub(super) enum Verdict {
    /// Send this answer.
    Answer(Vec<u8>),
    /// Forward the query to the node's resolvers.
    Forward,
    /// Ignore the message, because it is not a query.
    Ignore,
}

/// Returns the domain of a platform's services.
pub(in crate::agent) fn domain(platform: &PlatformName) -> String {
    format!("{platform}.internal")
}

/// The names that a table defines, with their addresses.
#[derive(Debug, Default)]
pub(in crate::agent) struct Zone {
    /// The names, in lower case and without the trailing dot.
    names: HashMap<String, Ipv4Addr>,
    reverse: HashMap<Ipv4Addr, String>,
    domain: String,
    block: Option<Block>,
    /// The version of the table.
    serial: u32,
}

impl Zone {
    pub(in crate::agent) fn new(table: &Table) -> Self {
        let domain = domain(&table.platform);
        let mut names = HashMap::new();
        let mut reverse = HashMap::new();
        for entry in table.services.values() {
            for alias in &entry.aliases {
                let alias = alias.to_ascii_lowercase();
                names.insert(format!("{alias}.{domain}"), entry.address);
                names.insert(alias, entry.address);
            }
        }
        // A service's own name takes precedence over an alias of another service.
        for (name, entry) in &table.services {
            let short = name.as_str().to_ascii_lowercase();
            let full = format!("{short}.{domain}");
            reverse.insert(entry.address, full.clone());
            names.insert(full, entry.address);
            names.insert(short, entry.address);
        }
        Self {
            names,
            reverse,
            domain,
            block: Some(table.block),
            serial: u32::try_from(table.version).unwrap_or(u32::MAX),
        }
    }

    /// Decides what to do with a query.
    pub(super) fn judge(&self, query: &[u8]) -> Verdict {
        let Some((head, question)) = read(query) else {
            return failing(query, ResponseCode::FormErr);
        };
        if head.message_type != MessageType::Query {
            return Verdict::Ignore;
        }
        if head.op_code != OpCode::Query {
            return failing(query, ResponseCode::NotImp);
        }
        let Some(question) = question else {
            return failing(query, ResponseCode::FormErr);
        };
        let edns = Message::from_vec(query).ok().and_then(|query| query.edns);
        let mut message = if edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            // RFC 6891, section 6.1.3: the response contains the highest supported version.
            response(&head, ResponseCode::BADVERS)
        } else {
            let Some((code, records)) = self.answer(&question) else {
                return Verdict::Forward;
            };
            let mut message = response(&head, code);
            message.metadata.authoritative = true;
            if records.is_empty() {
                message.add_authorities(self.authority(question.name()));
            }
            message.add_answers(records);
            message
        };
        // Answer with EDNS if the client uses it.
        if edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            message.set_edns(edns);
        }
        message.add_query(question);
        message.to_vec().map_or(Verdict::Ignore, Verdict::Answer)
    }

    /// Returns the SOA record of a negative answer about `name`, which limits how long clients cache
    /// the answer (RFC 2308). A name outside the platform's domain is a zone of its own.
    fn authority(&self, name: &Name) -> Option<Record> {
        let domain = Name::from_ascii(format!("{}.", self.domain)).ok()?;
        let zone = if domain.zone_of(name) {
            domain.clone()
        } else {
            name.clone()
        };
        let mailbox = domain.prepend_label("hostmaster").ok()?;
        let soa = SOA::new(domain, mailbox, self.serial, REFRESH, RETRY, EXPIRE, TTL);
        Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    }

    /// Returns the response code and the records for a question; `None` if the name is outside the
    /// zone.
    fn answer(&self, question: &Query) -> Option<(ResponseCode, Vec<Record>)> {
        if question.query_class() != DNSClass::IN {
            return None;
        }
        let name = question.name().to_ascii().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
        if let Some(address) = self.names.get(name) {
            // For other record types, answer that the name exists but has no such records.
            let asked = matches!(question.query_type(), RecordType::A | RecordType::ANY);
            let records = asked.then(|| record(RData::A(A(*address))));
            return Some((ResponseCode::NoError, records.into_iter().collect()));
        }
        if let Some(address) = name.strip_suffix(REVERSE).and_then(unreversed)
            && self.block.is_some_and(|block| block.contains(address))
        {
            let Some(name) = self.reverse.get(&address) else {
                return Some((ResponseCode::NXDomain, Vec::new()));
            };
            let asked = matches!(question.query_type(), RecordType::PTR | RecordType::ANY);
            let name = Name::from_ascii(format!("{name}.")).ok().filter(|_| asked);
            let records = name.map(|name| record(RData::PTR(PTR(name))));
            return Some((ResponseCode::NoError, records.into_iter().collect()));
        }
        if self.domain.is_empty() {
            return None;
        }
        if name == self.domain {
            return Some((ResponseCode::NoError, Vec::new()));
        }
        let within = name
            .strip_suffix(&self.domain)
            .is_some_and(|rest| rest.ends_with('.'));
        within.then(|| (ResponseCode::NXDomain, Vec::new()))
    }
}

/// Creates a `SERVFAIL` response to a query.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    match failing(query, ResponseCode::ServFail) {
        Verdict::Answer(answer) => Some(answer),
        Verdict::Forward | Verdict::Ignore => None,
    }
}

/// Reads the header of a query, and its question if there is exactly one.
fn read(query: &[u8]) -> Option<(Header, Option<Query>)> {
    let mut decoder = BinDecoder::new(query);
    let head = Header::read(&mut decoder).ok()?;
    let question = (head.counts.queries == 1)
        .then(|| Query::read(&mut decoder).ok())
        .flatten();
    Some((head, question))
}

fn failing(query: &[u8], code: ResponseCode) -> Verdict {
    match read(query) {
        Some((head, question)) if head.message_type == MessageType::Query => {
            let mut message = response(&head, code);
            message.add_queries(question);
            message.to_vec().map_or(Verdict::Ignore, Verdict::Answer)
        }
        _ => Verdict::Ignore,
    }
}

fn response(head: &Header, code: ResponseCode) -> Message {
    let mut message = Message::response(head.id, head.op_code);
    message.metadata.recursion_desired = head.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = head.checking_disabled;
    message.metadata.response_code = code;
    message
}

/// Parses an address with its bytes in reverse order, as in PTR queries: `4.3.2.1` is 1.2.3.4.
fn unreversed(name: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = name.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(address).swap_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let entry = |address: &str, aliases: &[&str]| json!({ "address": address, "aliases": aliases, "ports": [], "backends": [] });
        let table: Table = serde_json::from_value(json!({
            "epoch": 1, "version": 1, "platform": "my_demo", "block": "127.80.0.0/16", "wait": 1,
            "services": {
                "db": entry("127.80.0.5", &["Postgres", "web"]),
                "web": entry("127.80.0.6", &[]),
                "My_App.v2": entry("127.80.1.7", &[]),
            },
        }))
        .unwrap();
        Zone::new(&table)
    }

    /// Asks for a record. Checks that exactly the negative answers have a SOA record.
    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        message.add_query(Query::query(name.clone(), kind));
        match zone.judge(&message.to_vec().unwrap()) {
            Verdict::Answer(answer) => {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.metadata.id, message.metadata.id);
                assert!(answer.metadata.recursion_available);
                assert_eq!(answer.queries[0].name(), &name);
                let records = answer.answers.iter().map(|record| {
                    assert_eq!(record.name, name);
                    record.data.to_string()
                });
                let records: Vec<String> = records.collect();
                let authorities = &answer.authorities;
                assert_eq!(authorities.len(), usize::from(records.is_empty()));
                assert!(authorities.iter().all(|soa| soa.name.zone_of(&name)));
                Some((answer.metadata.response_code, records))
            }
            Verdict::Forward => None,
            Verdict::Ignore => panic!("{name} was not recognized as a query"),
        }
    }

    #[test]
    fn services_have_only_an_address_record() {
        let zone = zone();
        for (name, address) in [
            ("db", "127.80.0.5"),
            ("DB", "127.80.0.5"),
            ("db.my_demo.internal", "127.80.0.5"),
            ("postgres", "127.80.0.5"),
            ("postgres.my_demo.internal", "127.80.0.5"),
            ("web", "127.80.0.6"),
            ("my_app.V2", "127.80.1.7"),
            ("my_app.v2.my_demo.internal", "127.80.1.7"),
        ] {
            let found = (ResponseCode::NoError, vec![address.to_owned()]);
            assert_eq!(ask(&zone, name, RecordType::A), Some(found), "{name}");
            let empty = (ResponseCode::NoError, vec![]);
            for other in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
                assert_eq!(ask(&zone, name, other), Some(empty.clone()), "{name}");
            }
        }
    }

    #[test]
    fn unknown_names_in_the_domain_do_not_exist_and_others_are_forwarded() {
        let zone = zone();
        let none = (ResponseCode::NXDomain, vec![]);
        for name in ["x.my_demo.internal", "a.db.my_demo.internal"] {
            assert_eq!(
                ask(&zone, name, RecordType::A),
                Some(none.clone()),
                "{name}"
            );
        }
        let apex = ask(&zone, "my_demo.internal", RecordType::A);
        assert_eq!(apex, Some((ResponseCode::NoError, vec![])));
        for name in ["debian.org", "x", "demo.internal", "xmy_demo.internal"] {
            assert_eq!(ask(&zone, name, RecordType::A), None, "{name}");
        }
        assert_eq!(ask(&Zone::default(), "db", RecordType::A), None);
    }

    #[test]
    fn addresses_resolve_to_names() {
        let zone = zone();
        let named = (
            ResponseCode::NoError,
            vec!["db.my_demo.internal.".to_owned()],
        );
        let asked = ask(&zone, "5.0.80.127.in-addr.arpa", RecordType::PTR);
        assert_eq!(asked, Some(named));
        let asked = ask(&zone, "9.0.80.127.in-addr.arpa", RecordType::PTR);
        assert_eq!(asked, Some((ResponseCode::NXDomain, vec![])));
        for other in ["1.0.0.10.in-addr.arpa", "80.127.in-addr.arpa"] {
            assert_eq!(ask(&zone, other, RecordType::PTR), None, "{other}");
        }
    }

    #[test]
    fn answers_edns_queries_with_edns() {
        let mut message = Message::query();
        let name = Name::from_ascii("db.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.set_edns(Edns::new());
        let Verdict::Answer(answer) = zone().judge(&message.to_vec().unwrap()) else {
            panic!("no answer");
        };
        assert!(Message::from_vec(&answer).unwrap().edns.is_some());
    }

    #[test]
    fn negative_answers_limit_how_long_they_are_cached() {
        let zone = zone();
        for (name, owner) in [
            ("x.my_demo.internal", "my_demo.internal."),
            ("db.my_demo.internal", "my_demo.internal."),
            ("DB", "DB."),
            ("9.0.80.127.in-addr.arpa", "9.0.80.127.in-addr.arpa."),
        ] {
            let mut message = Message::query();
            let asked = Name::from_ascii(format!("{name}.")).unwrap();
            message.add_query(Query::query(asked, RecordType::AAAA));
            let Verdict::Answer(answer) = zone.judge(&message.to_vec().unwrap()) else {
                panic!("no answer");
            };
            let answer = Message::from_vec(&answer).unwrap();
            let soa = &answer.authorities[0];
            assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), (owner, TTL));
            let RData::SOA(soa) = &soa.data else {
                panic!("{soa}");
            };
            assert_eq!((soa.minimum, soa.serial), (TTL, 1));
        }
    }

    #[test]
    fn an_unknown_version_of_edns_is_rejected() {
        for (name, version, expected) in [
            ("db.", 1, ResponseCode::BADVERS),
            ("debian.org.", 255, ResponseCode::BADVERS),
            ("db.", 0, ResponseCode::NoError),
        ] {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            let mut edns = Edns::new();
            edns.set_version(version);
            message.set_edns(edns);
            let Verdict::Answer(answer) = zone().judge(&message.to_vec().unwrap()) else {
                panic!("no answer");
            };
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(
                u16::from(answer.metadata.response_code),
                u16::from(expected)
            );
            assert_eq!(answer.edns.map(|edns| edns.version()), Some(0), "{name}");
            let is_rejected = expected == ResponseCode::BADVERS;
            assert_eq!(answer.answers.is_empty(), is_rejected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn accepts_arbitrary_input(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let zone = zone();
            zone.judge(&bytes);
            failure(&bytes);
        }
    }
}
