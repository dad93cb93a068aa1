//! Stores a share's directories and files. As on Windows, names keep their case, but comparisons
//! ignore case.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::{DateTime, Utc};

use super::answer::{Answer, Refusal, file_time, http_date};
use super::contents::Contents;

#[derive(Debug)]
pub(super) struct Share {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) modified: DateTime<Utc>,
    pub(super) etag: u64,
    root: Directory,
    /// The number of the last change. Ids and entity tags are derived from this number.
    changes: u64,
}

/// The common properties of directories and files.
#[derive(Debug)]
pub(super) struct Properties {
    pub(super) name: String,
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) etag: u64,
    pub(super) created: DateTime<Utc>,
    pub(super) modified: DateTime<Utc>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Windows file attributes, as received.
    pub(super) attributes: String,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) properties: Properties,
    /// The entries, by name in lower case.
    pub(super) entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) properties: Properties,
    pub(super) contents: Contents,
    /// The content headers for read responses, such as `content-type`.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// An entry of a directory.
#[derive(Debug)]
pub(super) enum Entry {
    Directory(Directory),
    File(File),
}

impl Entry {
    pub(super) fn properties(&self) -> &Properties {
        match self {
            Self::Directory(directory) => &directory.properties,
            Self::File(file) => &file.properties,
        }
    }
}

/// Returns an entity tag as the value of a header.
pub(super) fn etag(number: u64) -> String {
    format!("\"0x8DD{number:012X}\"")
}

impl Properties {
    /// Adds the headers that contain these properties.
    pub(super) fn headers(&self, mut answer: Answer) -> Answer {
        for (name, value) in &self.metadata {
            answer = answer.header(&format!("x-ms-meta-{name}"), value);
        }
        self.stamp(answer)
            .header(
                "x-ms-file-permission-key",
                "4010187179898695473*11459378189709739967",
            )
            .header("x-ms-file-attributes", &self.attributes)
            .header("x-ms-file-creation-time", file_time(self.created))
            .header("x-ms-file-last-write-time", file_time(self.modified))
            .header("x-ms-file-change-time", file_time(self.modified))
            .header("x-ms-file-id", self.id.to_string())
            .header("x-ms-file-parent-id", self.parent.to_string())
    }

    /// Records a change. The number must not have been used before.
    pub(super) fn change(&mut self, number: u64, now: DateTime<Utc>) {
        self.etag = number;
        self.modified = now;
    }

    /// Adds only the headers that identify the current state.
    pub(super) fn stamp(&self, answer: Answer) -> Answer {
        answer
            .header("etag", etag(self.etag))
            .header("last-modified", http_date(self.modified))
    }
}

impl Share {
    pub(super) fn new(metadata: BTreeMap<String, String>, now: DateTime<Utc>) -> Self {
        let root = Properties {
            name: String::new(),
            id: 0,
            parent: 0,
            etag: 1,
            created: now,
            modified: now,
            metadata: BTreeMap::new(),
            attributes: "Directory".to_owned(),
        };
        Self {
            metadata,
            modified: now,
            etag: 1,
            root: Directory {
                properties: root,
                entries: BTreeMap::new(),
            },
            changes: 1,
        }
    }

    /// Returns a new change number.
    pub(super) fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn properties(
        &mut self,
        name: &str,
        parent: u64,
        attributes: String,
        metadata: BTreeMap<String, String>,
        now: DateTime<Utc>,
    ) -> Properties {
        let number = self.change();
        Properties {
            name: name.to_owned(),
            // Ids are large and far apart, as on NTFS.
            id: 0x2000_0000_0000_0000 + (number << 16),
            parent,
            etag: number,
            created: now,
            modified: now,
            metadata,
            attributes,
        }
    }

    pub(super) fn directory(&mut self, path: &[String]) -> Result<&mut Directory, Refusal> {
        let mut directory = &mut self.root;
        for (depth, name) in path.iter().enumerate() {
            let missing = if depth + 1 == path.len() {
                "resource"
            } else {
                "parent"
            };
            directory = match directory.entries.get_mut(&name.to_lowercase()) {
                Some(Entry::Directory(directory)) => directory,
                Some(Entry::File(_)) if depth + 1 == path.len() => {
                    return Err(Refusal::type_mismatch());
                }
                Some(Entry::File(_)) | None => return Err(Refusal::not_found(missing)),
            };
        }
        Ok(directory)
    }

    /// Returns the parent directory of `path`, and the name within that directory.
    fn parent<'p>(&mut self, path: &'p [String]) -> Result<(&mut Directory, &'p str), Refusal> {
        let (name, parent) = path.split_last().ok_or_else(Refusal::type_mismatch)?;
        match self.directory(parent) {
            Ok(directory) => Ok((directory, name)),
            Err(_) => Err(Refusal::not_found("parent")),
        }
    }

    pub(super) fn file(&mut self, path: &[String]) -> Result<&mut File, Refusal> {
        let (directory, name) = self.parent(path)?;
        match directory.entries.get_mut(&name.to_lowercase()) {
            Some(Entry::File(file)) => Ok(file),
            // If a file is requested, a directory counts as absent.
            Some(Entry::Directory(_)) | None => Err(Refusal::not_found("resource")),
        }
    }

    /// Creates a directory. The parent directory must exist.
    pub(super) fn make_directory(
        &mut self,
        path: &[String],
        metadata: BTreeMap<String, String>,
        now: DateTime<Utc>,
    ) -> Result<&Properties, Refusal> {
        check_names(path)?;
        if path.is_empty() {
            return Err(already_exists());
        }
        let parent = self.parent(path)?.0.properties.id;
        let (name, _) = path.split_last().ok_or_else(already_exists)?;
        let properties = self.properties(name, parent, "Directory".to_owned(), metadata, now);
        let (directory, name) = self.parent(path)?;
        let key = name.to_lowercase();
        if directory.entries.contains_key(&key) {
            return Err(already_exists());
        }
        let created = Entry::Directory(Directory {
            properties,
            entries: BTreeMap::new(),
        });
        Ok(directory.entries.entry(key).or_insert(created).properties())
    }

    /// Creates a file of zeros in an existing directory. Replaces an existing file.
    pub(super) fn make_file(
        &mut self,
        path: &[String],
        size: u64,
        headers: Vec<(&'static str, String)>,
        metadata: BTreeMap<String, String>,
        attributes: String,
        now: DateTime<Utc>,
    ) -> Result<&Properties, Refusal> {
        check_names(path)?;
        let parent = self.parent(path)?.0.properties.id;
        let (name, _) = path.split_last().ok_or_else(Refusal::type_mismatch)?;
        let properties = self.properties(name, parent, attributes, metadata, now);
        let (directory, name) = self.parent(path)?;
        let key = name.to_lowercase();
        if let Some(Entry::Directory(_)) = directory.entries.get(&key) {
            return Err(Refusal::type_mismatch());
        }
        directory.entries.remove(&key);
        let created = Entry::File(File {
            properties,
            contents: Contents::zeros(size),
            headers,
        });
        Ok(directory.entries.entry(key).or_insert(created).properties())
    }

    pub(super) fn remove_file(&mut self, path: &[String]) -> Result<(), Refusal> {
        self.file(path)?;
        let (directory, name) = self.parent(path)?;
        directory.entries.remove(&name.to_lowercase());
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&mut self, path: &[String]) -> Result<(), Refusal> {
        if !self.directory(path)?.entries.is_empty() {
            return Err(Refusal::conflict(
                "DirectoryNotEmpty",
                "The specified directory is not empty.",
            ));
        }
        let (directory, name) = self.parent(path)?;
        directory.entries.remove(&name.to_lowercase());
        Ok(())
    }

    /// Returns all files with their sizes.
    pub(super) fn files(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut left = vec![(String::new(), &self.root)];
        while let Some((prefix, directory)) = left.pop() {
            for entry in directory.entries.values() {
                let path = format!("{prefix}{}", entry.properties().name);
                match entry {
                    Entry::Directory(inner) => left.push((format!("{path}/"), inner)),
                    Entry::File(file) => {
                        found.insert(path, file.contents.size());
                    }
                }
            }
        }
        found
    }
}

fn already_exists() -> Refusal {
    Refusal::conflict(
        "ResourceAlreadyExists",
        "The specified resource already exists.",
    )
}

/// Checks that Windows allows all names in a path.
fn check_names(path: &[String]) -> Result<(), Refusal> {
    let bad = |name: &String| {
        name.chars()
            .any(|c| c.is_control() || "\"\\:|<>*?".contains(c))
            || name.ends_with('.')
            || name.ends_with(' ')
    };
    if path.iter().any(bad) {
        return Err(Refusal::bad_name());
    }
    if path.iter().any(|name| name.chars().count() > 255) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "OutOfRangeInput",
            "A path component is longer than 255 characters.",
        ));
    }
    Ok(())
}
