//! Who may call us, and whom we may call.

use consul_api_types::{IntentionMatch, IntentionMatches};

use super::{Protocol, Registration, ServiceName, SpiffeId, Survey, TrustDomain, service_right};
use crate::{
    control::consul::{decode, inquiry, tenancy},
    model::intention::{Action, DefaultPolicy, Denied, Intention, Intentions, Pattern, Rule, Source, Verdict},
};

/// Whether intentions deny all that they name, and those that they do not name may not call either.
fn is_closed(intentions: &Intentions, default: DefaultPolicy) -> bool {
    let denies = |intention: &Intention| match &intention.rule {
        Rule::Action(action) => *action == Action::Deny,
        Rule::Permissions(permissions) => {
            permissions.iter().all(|permission| permission.action == Action::Deny) && default != DefaultPolicy::Allow
        }
        Rule::Unsupported(_) => true,
    };
    let is_everybody = |source: &Source| source.peer.is_none() && source.namespace == Pattern::Any && source.name == Pattern::Any;
    let all = || intentions.iter().map(|(_, intention)| intention);
    all().all(denies) && (default == DefaultPolicy::Deny || all().any(|intention| is_everybody(&intention.source)))
}

impl Survey<'_> {
    /// The intentions towards us: those that do not do what they say, the token issuers that they name, and whether anybody may call at all.
    pub(super) async fn inbound(&mut self, registration: &Registration, trust_domain: &TrustDomain, default: DefaultPolicy) {
        let service = &registration.service;
        let path = format!("intentions of {service}");
        let Some((wire, intentions)) = self.intentions(service, trust_domain, registration.protocol, default, &path).await else { return };
        for doubt in intentions.doubts() {
            self.report.error(format!("intention {}", doubt.id), doubt.why, doubt.effect);
        }
        let ids: Vec<String> = intentions.ids().map(ToString::to_string).collect();
        if is_closed(&intentions, default) {
            let why = if ids.is_empty() {
                "no intention names a caller and the default policy is deny: nobody may call it"
            } else {
                "its intentions deny all that they name, and others may not call either: nobody may call it"
            };
            self.report.warning(&path, why, format!("allow one: consul intention create -allow SOURCE {}", service.name));
        }
        let list = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        let others = match default {
            DefaultPolicy::Allow => "allowed",
            DefaultPolicy::Deny => "denied",
            DefaultPolicy::Unknown => "denied while the default policy is not known",
        };
        self.report.facts.push(format!("intentions of {service}: {list}; other callers are {others}"));
        self.issuers(&wire, service).await;
    }

    /// The token issuers that the intentions name.
    async fn issuers(&mut self, wire: &IntentionMatches, service: &ServiceName) {
        let required = decode::jwt_provider::required(wire, &service.name);
        let tokens = inquiry::tokens(self.client, required).await;
        for name in &tokens.required {
            let why = match tokens.provider(name) {
                Some(Ok(provider)) => provider.keys.err().map(|why| why.to_string()),
                Some(Err(why)) => Some(why.to_owned()),
                None => Some("its entry was not read".to_owned()),
            };
            if let Some(why) = why {
                let advice = "no token of it stands; write or correct the config entry, and let the token read it: mesh = \"read\"";
                self.report.error(format!("jwt provider {name}"), why, advice);
            }
        }
    }

    /// What the intentions of a service that we call say about us.
    pub(super) async fn may_call(&mut self, to: &ServiceName, protocol: Protocol, caller: &SpiffeId, default: DefaultPolicy, path: &str) {
        let Some((_, intentions)) = self.intentions(to, &caller.trust_domain, protocol, default, path).await else { return };
        let Some(from) = caller.as_service() else { return };
        match intentions.judge(caller) {
            Verdict::Permit(permit) => self.report.facts.push(format!("{path}: {from} may call {to}: {}", permit.decider())),
            Verdict::PerRequest(conditions) => {
                let ask = format!("aralez explain -from {} -to {} GET / shows how", from.name, to.name);
                self.report.facts.push(format!("{path}: intention {} looks at each request; {ask}", conditions.intention()));
            }
            Verdict::Denied(denied) => {
                let advice = match &denied {
                    Denied::Unsupported { .. } => "take out of the intention what is not supported".to_owned(),
                    Denied::DefaultPolicyUnknown(_) => {
                        format!("let an intention name it: consul intention create -allow {} {}", from.name, to.name)
                    }
                    // Consul's command line does not change what a config entry says.
                    _ => format!(
                        "if it shall: consul intention create -replace -allow {} {to}, or its service-intentions entry if there is one",
                        from.name,
                        to = to.name
                    ),
                };
                self.report.error(path, format!("{from} may not call {to}: {denied}"), advice);
            }
        }
    }

    /// The intentions towards a service, as they were sent and ready to decide.
    async fn intentions(
        &mut self,
        service: &ServiceName,
        trust_domain: &TrustDomain,
        protocol: Protocol,
        default: DefaultPolicy,
        path: &str,
    ) -> Option<(IntentionMatches, Intentions)> {
        let query = IntentionMatch { destination: service.name.to_string(), tenancy: tenancy(service) };
        let wire = self.ask(&query, path, &service_right(&service.name, "read")).await?;
        let decoded = decode::intentions::intentions(&wire, &service.name);
        let list = self.read(path, decoded, "correct the intention; the list before it holds until then")?;
        Some((wire, Intentions::new(trust_domain.clone(), default, protocol, list)))
    }
}
