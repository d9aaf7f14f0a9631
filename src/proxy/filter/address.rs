//! Who may come at all, by address.

use std::net::IpAddr;

use crate::{
    model::ingress::filters::AddressRules,
    proxy::refusal::{Answer, Refusal},
};

/// Lets a client pass, or not: `deny` first, then `allow`. Who has no address (on a Unix socket) is in no network.
///
/// # Errors
/// 403.
pub fn check(rules: &AddressRules, client: Option<IpAddr>) -> Result<(), Refusal> {
    let denied = client.is_some_and(|client| rules.deny.contain(client));
    let allowed = rules.allow.0.is_empty() || client.is_some_and(|client| rules.allow.contain(client));
    if allowed && !denied { Ok(()) } else { Err(Answer::new(403, "address_denied").body("forbidden\n").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ingress::Networks;

    #[test]
    fn deny_goes_before_allow_and_an_empty_allow_is_everybody() {
        let networks = |text: &str| Networks(text.split_whitespace().map(|network| network.parse().unwrap()).collect());
        for (deny, allow, client, passes) in [
            ("", "", "192.0.2.1", true),
            ("", "", "", true),
            ("192.0.2.0/24", "", "192.0.2.1", false),
            ("192.0.2.0/24", "", "::ffff:192.0.2.1", false),
            ("192.0.2.0/24", "", "198.51.100.1", true),
            ("192.0.2.0/24", "", "", true),
            ("", "192.0.2.0/24", "192.0.2.1", true),
            ("", "192.0.2.0/24", "198.51.100.1", false),
            ("", "192.0.2.0/24", "", false),
            ("192.0.2.7/32", "192.0.2.0/24", "192.0.2.7", false),
            ("", "2001:db8::/32", "2001:db8:1::1", true),
            ("", "2001:db8::/32", "2001:db9::1", false),
        ] {
            let rules = AddressRules { deny: networks(deny), allow: networks(allow) };
            assert_eq!(check(&rules, client.parse().ok()).is_ok(), passes, "{client:?} with deny {deny:?}, allow {allow:?}");
        }
    }
}
