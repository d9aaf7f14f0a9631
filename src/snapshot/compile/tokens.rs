//! The token issuers of the inbound listener. One that cannot be used closes what asks for its tokens, and nothing else.

use std::sync::Arc;

use super::Sidecar;
use crate::{
    model::jwt::{KeyPlace, KeySet, KeySource, Provider, ProviderEntry, Providers},
    snapshot::TokenInputs,
};

/// What the start still waits for, if anything: the entries, and the first outcome of reading each one's keys.
pub(super) fn awaited(tokens: &TokenInputs) -> Option<String> {
    if tokens.required.is_empty() {
        return None;
    }
    let Some(entries) = &tokens.entries else { return Some("jwt providers".to_owned()) };
    let waits = |entry: &&Arc<ProviderEntry>| match &entry.keys {
        KeySource::Place(KeyPlace::Remote(remote)) if remote.asynchronous => false,
        KeySource::Place(place) => tokens.required.contains(&entry.name) && !tokens.keys.contains_key(place),
        KeySource::Entry(_) | KeySource::Nowhere(_) => false,
    };
    entries.iter().flatten().find(waits).map(|entry| format!("keys of jwt provider {}", entry.name))
}

impl Sidecar<'_> {
    /// The issuers that the intentions name, those that did not change as they were.
    pub(super) fn providers(&mut self, tokens: &TokenInputs, last: &Providers) -> Providers {
        let mut providers = Providers::new();
        for name in &tokens.required {
            let path = format!("jwt provider {name}");
            let provider = match tokens.provider(name) {
                None => continue,
                Some(Ok(provider)) => provider,
                Some(Err(why)) => {
                    self.problem(&path, why, "no token of it stands");
                    continue;
                }
            };
            match &provider.keys {
                Ok(keys) => keys.skipped.iter().for_each(|why| self.problem(&path, why, "its other keys serve")),
                Err(why) => self.problem(&path, why, "no token of it stands"),
            }
            let same = last.get(name).filter(|last| ***last == provider);
            providers.insert(name.clone(), same.cloned().unwrap_or_else(|| Arc::new(provider)));
        }
        providers
    }
}

impl TokenInputs {
    /// An issuer as far as it is known: `None` while the entries have not arrived, else its entry with its keys, or why there is none.
    pub fn provider(&self, name: &str) -> Option<Result<Provider, &str>> {
        let entry = match self.entries.as_ref()? {
            Ok(entries) => entries.iter().find(|entry| *entry.name == *name).ok_or("there is no such config entry"),
            Err(why) => Err(why.as_str()),
        };
        Some(entry.map(|entry| Provider { entry: entry.clone(), keys: keys(&entry.keys, self) }))
    }
}

fn keys(source: &KeySource, tokens: &TokenInputs) -> Result<Arc<KeySet>, Arc<str>> {
    match source {
        KeySource::Entry(keys) => Ok(keys.clone()),
        KeySource::Nowhere(why) => Err(why.clone()),
        KeySource::Place(place) => match tokens.keys.get(place) {
            Some(keys) => keys.clone().map_err(Into::into),
            None => Err("its keys have not been read yet".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::model::{
        jwt::{RemoteKeys, Trust},
        secret::Secret,
    };

    const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn place(asynchronous: bool) -> KeyPlace {
        KeyPlace::Remote(Arc::new(RemoteKeys {
            url: Secret::new("http://issuer.example/keys"),
            shown: "http://issuer.example/keys".into(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            lifetime: Duration::from_secs(300),
            asynchronous,
            retries: 0,
            back_off: (Duration::from_secs(1), Duration::from_secs(10)),
            trust: Trust::System,
        }))
    }

    fn entry(name: &str, keys: KeySource) -> Arc<ProviderEntry> {
        Arc::new(ProviderEntry {
            name: name.into(),
            issuer: "i".into(),
            audiences: Vec::new(),
            locations: Vec::new(),
            forwarding: None,
            clock_skew: Duration::ZERO,
            cache_size: 0,
            keys,
        })
    }

    fn inputs(entries: Vec<Arc<ProviderEntry>>) -> TokenInputs {
        TokenInputs { required: BTreeSet::from(["okta".into()]), entries: Some(Ok(entries)), ..TokenInputs::default() }
    }

    #[test]
    fn the_start_waits_for_entries_and_one_outcome_of_their_keys() {
        let watched = inputs(vec![entry("okta", KeySource::Place(place(false))), entry("auth0", KeySource::Place(place(true)))]);
        assert_eq!(awaited(&watched).as_deref(), Some("keys of jwt provider okta"));
        for outcome in [Err("500".to_owned()), KeySet::parse(KEYS.as_bytes()).map(Arc::new)] {
            assert_eq!(awaited(&TokenInputs { keys: [(place(false), outcome)].into(), ..watched.clone() }), None);
        }
        assert_eq!(awaited(&inputs(vec![entry("okta", KeySource::Place(place(true)))])), None);
        assert_eq!(awaited(&inputs(Vec::new())), None);
        assert_eq!(awaited(&TokenInputs { entries: None, ..watched.clone() }).as_deref(), Some("jwt providers"));
        assert_eq!(awaited(&TokenInputs { required: BTreeSet::new(), entries: None, ..watched }), None);
    }

    #[test]
    fn keys_that_nothing_asks_for_are_forgotten() {
        let mut tokens = inputs(vec![entry("okta", KeySource::Place(place(false))), entry("auth0", KeySource::Place(place(true)))]);
        tokens.keys = [(place(false), Err(String::new())), (place(true), Err(String::new()))].into();
        tokens.forget();
        assert!(tokens.keys.len() == 1 && tokens.keys.contains_key(&place(false)));
    }
}
