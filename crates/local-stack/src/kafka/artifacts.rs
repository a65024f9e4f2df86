//! Kafka's jars: from an installed distribution, or fetched once with Maven into a cache folder.

use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::command;
use crate::environment;
use crate::error::Error;
use crate::install;
use crate::lock_file::LockFile;
use crate::server::{create_folder, write_file};
use crate::workspace::Workspace;

/// The version that is fetched.
pub(crate) const KAFKA_VERSION: &str = "4.3.1";

/// Where Kafka's jars come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KafkaSource {
    /// An installed distribution (`KAFKA_HOME`).
    Installed(PathBuf),
    /// A folder that holds what was fetched, one folder per version.
    Cache(PathBuf),
}

impl KafkaSource {
    /// The distribution or cache that the caller, the environment or the workspace names, in this order.
    pub(crate) fn find(home: Option<&Path>, cache: Option<&Path>) -> Result<Self, Error> {
        let absolute =
            |path: PathBuf| std::path::absolute(path).map_err(Error::io("tell the current folder"));
        if let Some(home) = home.map(Path::to_owned).or_else(|| environment::path(environment::KAFKA_HOME)) {
            return absolute(home).map(Self::Installed);
        }
        match cache.map(Path::to_owned).or_else(|| environment::path(environment::CACHE)) {
            Some(cache) => absolute(cache).map(Self::Cache),
            None => Ok(Self::Cache(Workspace::find()?.cache())),
        }
    }

    /// Whether nothing has to be fetched.
    pub(crate) fn is_present(&self) -> bool {
        match self {
            Self::Installed(home) => home.join("libs").is_dir(),
            Self::Cache(cache) => version_folder(cache).join("libs").is_dir(),
        }
    }

    /// The folder with the jars; fetches them if need be.
    pub(crate) fn libraries(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Installed(home) if self.is_present() => Ok(home.join("libs")),
            Self::Installed(home) => Err(Error::Missing {
                what: format!("{}/libs", home.display()),
                remedy: "let KAFKA_HOME name an installed Kafka distribution, or unset it".to_owned(),
            }),
            Self::Cache(cache) => fetched(cache),
        }
    }
}

fn version_folder(cache: &Path) -> PathBuf {
    cache.join(format!("kafka-{KAFKA_VERSION}"))
}

/// The cached jars. One process at a time fetches; the folder appears in one step, complete.
fn fetched(cache: &Path) -> Result<PathBuf, Error> {
    let folder = version_folder(cache);
    let libraries = folder.join("libs");
    if libraries.is_dir() {
        return Ok(libraries);
    }
    create_folder(cache)?;
    let lock = cache.join(format!("kafka-{KAFKA_VERSION}.lock"));
    let _lock = LockFile::acquire(&lock).map_err(Error::io(format!("lock {}", lock.display())))?;
    if libraries.is_dir() {
        return Ok(libraries);
    }

    let temporary = tempfile::Builder::new().prefix(".kafka-").tempdir_in(cache);
    let temporary = temporary.map_err(Error::io(format!("create a folder in {}", cache.display())))?;
    fetch(temporary.path())?;
    let complete = temporary.keep();
    std::fs::rename(&complete, &folder).map_err(Error::io(format!("create {}", folder.display())))?;
    Ok(libraries)
}

/// The plugin's version is pinned: without, Maven takes whatever is newest that day.
fn fetch(folder: &Path) -> Result<(), Error> {
    let maven = environment::find_program("mvn").ok_or_else(|| install::missing("mvn"))?;
    let project = folder.join("pom.xml");
    write_file(&project, &project_file())?;
    let mut fetch = Account::Own.command(&maven);
    fetch
        .args(["-q", "-B", "-f"])
        .arg(&project)
        .arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
    command::capture(&mut fetch, "fetching Kafka with Maven", command::LONG)?;
    let broker = folder.join(format!("libs/kafka_2.13-{KAFKA_VERSION}.jar"));
    if broker.is_file() {
        Ok(())
    } else {
        Err(Error::Missing {
            what: broker.display().to_string(),
            remedy: "check Maven's settings and run `local-stack install` again".to_owned(),
        })
    }
}

fn project_file() -> String {
    let dependencies: String = [
        ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),
        ("org.apache.logging.log4j", "log4j-core", "2.24.3"),
    ]
    .iter()
    .map(|(group, artifact, version)| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    })
    .collect();
    format!(
        "<project>\n  <modelVersion>4.0.0</modelVersion>\n  <groupId>local-stack</groupId>\n  \
         <artifactId>kafka</artifactId>\n  <version>1</version>\n  <packaging>pom</packaging>\n  \
         <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_distribution_wins_and_must_be_one() {
        let home = tempfile::tempdir().unwrap();
        let source = KafkaSource::find(Some(home.path()), Some(Path::new("/unused"))).unwrap();
        assert_eq!(source, KafkaSource::Installed(home.path().to_owned()));
        let error = source.libraries().unwrap_err().to_string();
        assert!(error.contains("KAFKA_HOME"), "{error}");

        std::fs::create_dir(home.path().join("libs")).unwrap();
        assert_eq!(source.libraries().unwrap(), home.path().join("libs"));
    }
}
