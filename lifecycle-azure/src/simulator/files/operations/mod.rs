//! Defines the supported operations, and the permissions that they require.

mod directories;
mod files;
mod shares;

use axum::http::Method;
use axum::response::Response;
use chrono::{DateTime, Utc};

use super::Account;
use super::answer::Refusal;
use super::call::Call;
use super::listing;
use super::tree::Share;

/// The level of the resource that an operation accesses, in the terms of account signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Service,
    Container,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    ListShares,
    CreateShare,
    GetShare,
    SetShareMetadata,
    DeleteShare,
    CreateDirectory,
    GetDirectory,
    SetDirectoryMetadata,
    DeleteDirectory,
    List,
    CreateFile,
    GetFile,
    GetFileProperties,
    SetFileMetadata,
    SetFileProperties,
    DeleteFile,
    PutRange,
    ListRanges,
}

impl Operation {
    pub(super) fn of(call: &Call) -> Result<Self, Refusal> {
        for (header, what) in [
            ("x-ms-copy-source", "Copy File"),
            ("x-ms-lease-action", "leases"),
            ("x-ms-file-request-intent", "requests with tokens"),
        ] {
            if call.header(header).is_some() {
                return Err(Refusal::not_simulated(what));
            }
        }
        if call.parameter("sharesnapshot").is_some() {
            return Err(Refusal::not_simulated("snapshots"));
        }
        let component = call.parameter("comp").unwrap_or_default();
        let kind = call.parameter("restype").unwrap_or_default();
        let unknown = || Refusal::not_simulated(&format!("{} {kind} {component}", call.method));
        let read = call.method == Method::GET || call.method == Method::HEAD;
        if call.share.is_none() {
            return match component {
                "list" if read => Ok(Self::ListShares),
                _ => Err(unknown()),
            };
        }
        let write = call.method == Method::PUT;
        let delete = call.method == Method::DELETE;
        match (kind, component) {
            ("share", "") if write => Ok(Self::CreateShare),
            ("share", "" | "metadata") if read => Ok(Self::GetShare),
            ("share", "metadata") if write => Ok(Self::SetShareMetadata),
            ("share", "") if delete => Ok(Self::DeleteShare),
            ("directory", "") if write => Ok(Self::CreateDirectory),
            ("directory", "" | "metadata") if read => Ok(Self::GetDirectory),
            ("directory", "metadata") if write => Ok(Self::SetDirectoryMetadata),
            ("directory", "") if delete => Ok(Self::DeleteDirectory),
            ("directory", "list") if read => Ok(Self::List),
            ("", "") if write => Ok(Self::CreateFile),
            ("", "") if call.method == Method::GET => Ok(Self::GetFile),
            ("", "" | "metadata") if read => Ok(Self::GetFileProperties),
            ("", "metadata") if write => Ok(Self::SetFileMetadata),
            ("", "properties") if write => Ok(Self::SetFileProperties),
            ("", "") if delete => Ok(Self::DeleteFile),
            ("", "range") if write => Ok(Self::PutRange),
            ("", "rangelist") if read => Ok(Self::ListRanges),
            _ => Err(unknown()),
        }
    }

    pub(super) fn level(self) -> Level {
        match self {
            Self::ListShares => Level::Service,
            Self::CreateShare
            | Self::GetShare
            | Self::SetShareMetadata
            | Self::DeleteShare
            | Self::List => Level::Container,
            _ => Level::Object,
        }
    }

    /// Returns whether a signature for a share allows this operation. Such a signature covers all
    /// operations inside the share, but none on the share as a whole.
    pub(super) fn is_within_share(self) -> bool {
        !matches!(
            self,
            Self::ListShares
                | Self::CreateShare
                | Self::GetShare
                | Self::SetShareMetadata
                | Self::DeleteShare
        )
    }

    /// Returns the permissions that allow this operation. A single one of them is enough.
    pub(super) fn permissions(self) -> &'static str {
        match self {
            Self::ListShares | Self::List => "l",
            Self::GetShare
            | Self::GetDirectory
            | Self::GetFile
            | Self::GetFileProperties
            | Self::ListRanges => "r",
            Self::CreateShare | Self::CreateDirectory | Self::CreateFile => "cw",
            Self::SetShareMetadata
            | Self::SetDirectoryMetadata
            | Self::SetFileMetadata
            | Self::SetFileProperties
            | Self::PutRange => "w",
            Self::DeleteShare | Self::DeleteDirectory | Self::DeleteFile => "d",
        }
    }

    pub(super) fn carry_out(
        self,
        call: &Call,
        account: &mut Account,
        page: usize,
        now: DateTime<Utc>,
    ) -> Result<Response, Refusal> {
        match self {
            Self::ListShares => listing::shares(call, page, account),
            Self::CreateShare => shares::create(call, account, now),
            Self::DeleteShare => shares::delete(call, account),
            Self::GetShare => Ok(shares::get(share(call, account)?)),
            Self::SetShareMetadata => Ok(shares::set_metadata(call, share(call, account)?, now)),
            Self::CreateDirectory => directories::create(call, share(call, account)?, now),
            Self::GetDirectory => directories::get(call, share(call, account)?),
            Self::SetDirectoryMetadata => {
                directories::set_metadata(call, share(call, account)?, now)
            }
            Self::DeleteDirectory => directories::delete(call, share(call, account)?),
            Self::List => {
                let share = share(call, account)?;
                listing::directory(call, page, share.directory(&call.path)?)
            }
            Self::CreateFile => files::create(call, share(call, account)?, now),
            Self::GetFile => files::read(call, share(call, account)?),
            Self::GetFileProperties => files::properties(call, share(call, account)?),
            Self::SetFileMetadata => files::set_metadata(call, share(call, account)?, now),
            Self::SetFileProperties => files::set_properties(call, share(call, account)?, now),
            Self::DeleteFile => files::delete(call, share(call, account)?),
            Self::PutRange => files::put_range(call, share(call, account)?, now),
            Self::ListRanges => files::ranges(call, share(call, account)?),
        }
    }
}

fn share<'a>(call: &Call, account: &'a mut Account) -> Result<&'a mut Share, Refusal> {
    call.share
        .as_ref()
        .and_then(|name| account.shares.get_mut(name))
        .ok_or_else(|| Refusal::not_found("share"))
}
