//! Becoming another user, for good.

use std::ffi::CString;

use anyhow::{Context as _, bail, ensure};
use nix::unistd::{self, Gid, Group, Uid, User};

/// Who this process is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user with its name, which the supplementary groups are looked up by; `None` stays as it is.
    user: Option<(Uid, CString)>,
    group: Gid,
}

impl Account {
    /// Looks up a user and a group by name or number. Without a group the user's own is meant; without either there is nothing to become.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub fn find(user: Option<&str>, group: Option<&str>) -> anyhow::Result<Option<Self>> {
        let user = user.map(find_user).transpose()?;
        let group = match (group, &user) {
            (Some(group), _) => find_group(group)?,
            (None, Some(user)) => user.gid,
            (None, None) => return Ok(None),
        };
        let user = user.map(|user| Ok::<_, anyhow::Error>((user.uid, CString::new(user.name)?))).transpose()?;
        Ok(Some(Self { user, group }))
    }

    /// The user's number, if the user changes.
    pub fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(|(uid, _)| uid.as_raw())
    }

    /// The group's number.
    pub fn gid(&self) -> u32 {
        self.group.as_raw()
    }

    /// Becomes it, in every thread of the process and with no way back: group, supplementary groups, user, in this order, for the user may not change
    /// its groups any more.
    ///
    /// # Errors
    /// When this process may not; when it already is that user and group, it needs not.
    pub fn assume(&self) -> anyhow::Result<()> {
        let is_group = unistd::getegid() == self.group && unistd::getgid() == self.group;
        let is_user = self.user.as_ref().is_none_or(|(uid, _)| unistd::geteuid() == *uid && unistd::getuid() == *uid);
        if is_group && is_user && !unistd::geteuid().is_root() {
            return Ok(());
        }
        let who = "only root can become another user or group; start as root, or as that user (which needs CAP_NET_BIND_SERVICE for ports below 1024)";
        unistd::setresgid(self.group, self.group, self.group).context(who)?;
        match &self.user {
            Some((uid, name)) => {
                unistd::initgroups(name, self.group).context(who)?;
                unistd::setresuid(*uid, *uid, *uid).context(who)?;
                ensure!(uid.is_root() || unistd::setuid(Uid::from_raw(0)).is_err(), "privileges were dropped, and could be had back");
            }
            None => unistd::setgroups(&[self.group]).context(who)?,
        }
        Ok(())
    }
}

fn find_user(name: &str) -> anyhow::Result<User> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    match found.with_context(|| format!("cannot look up the user {name:?}"))? {
        Some(user) => Ok(user),
        None => bail!("there is no user {name:?} on this host"),
    }
}

fn find_group(name: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name).with_context(|| format!("cannot look up the group {name:?}"))? {
        Some(group) => Ok(group.gid),
        None => bail!("there is no group {name:?} on this host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_or_number() {
        let root = Account { user: Some((Uid::from_raw(0), c"root".to_owned())), group: Gid::from_raw(0) };
        assert_eq!(Account::find(Some("root"), None).unwrap(), Some(root.clone()));
        assert_eq!(Account::find(Some("0"), Some("root")).unwrap(), Some(root.clone()));
        let other = Account { group: Gid::from_raw(4242), ..root };
        assert_eq!(Account::find(Some("root"), Some("4242")).unwrap(), Some(other));
        assert_eq!(Account::find(None, Some("4242")).unwrap().unwrap().uid(), None);
        assert_eq!(Account::find(None, None).unwrap(), None);
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(Account::find(Some("no-such-user"), None).unwrap_err().to_string(), r#"there is no user "no-such-user" on this host"#);
        assert_eq!(
            Account::find(Some("root"), Some("no-such-group")).unwrap_err().to_string(),
            r#"there is no group "no-such-group" on this host"#
        );
    }
}
