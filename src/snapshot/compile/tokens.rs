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
            let entry = match &tokens.entries {
                None => continue,
                Some(Ok(entries)) => entries.iter().find(|entry| entry.name == *name).ok_or("there is no such config entry"),
                Some(Err(why)) => Err(why.as_str()),
            };
            let entry = match entry {
                Ok(entry) => entry.clone(),
                Err(why) => {
                    self.problem(&path, why, "no token of it stands");
                    continue;
                }
            };
            let keys = keys(&entry.keys, tokens);
            match &keys {
                Ok(keys) => keys.skipped.iter().for_each(|why| self.problem(&path, why, "its other keys serve")),
                Err(why) => self.problem(&path, why, "no token of it stands"),
            }
            let provider = Provider { entry, keys };
            let same = last.get(name).filter(|last| ***last == provider);
            providers.insert(name.clone(), same.cloned().unwrap_or_else(|| Arc::new(provider)));
        }
        providers
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
