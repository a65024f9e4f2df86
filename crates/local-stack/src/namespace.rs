//! A part of the servers that belongs to one test, or to the stack of `up`.

use url::Url;

use crate::credentials::random_text;
use crate::error::Error;
use crate::postgres::run_sql;
use crate::servers::Servers;

/// What keeps users of the same servers apart. All of it is ordinary configuration of the services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Lower-case letters and digits.
    pub name: String,
    /// Stands before every topic's name, separator included.
    pub topic_prefix: String,
    /// Stands before every consumer group's name, separator included.
    pub group_prefix: String,
    /// Stands before every Redis key, separator included.
    pub redis_key_prefix: String,
    /// URL of the namespace's own database.
    pub database_url: String,
    /// How many partitions its topics have.
    pub partitions: u32,
}

/// Makes a namespace of its own for one test, with an empty database. Topics are for [`crate::Deployment::prepare`] to create.
pub fn namespace(servers: &Servers, partitions: u32) -> Result<Namespace, Error> {
    let name = format!("t{}", random_text(10).to_lowercase());
    Namespace::named(servers, &name, partitions)
}

impl Namespace {
    /// The namespace of this name; its database is created if it does not exist yet.
    pub fn named(servers: &Servers, name: &str, partitions: u32) -> Result<Self, Error> {
        let starts_with_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
        if !starts_with_letter || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            let message = format!("namespace {name:?}: lower-case letters and digits only, a letter first");
            return Err(Error::Usage(message));
        }
        create_database(servers.database_url(), name)?;
        Ok(Self {
            name: name.to_owned(),
            topic_prefix: format!("{name}."),
            group_prefix: format!("{name}."),
            redis_key_prefix: format!("{name}:"),
            database_url: with_database(servers.database_url(), name)?,
            partitions,
        })
    }

    /// Drops the namespace's database, whoever is connected to it. Topics and keys stay; they go with the servers.
    pub fn drop_database(&self, servers: &Servers) -> Result<(), Error> {
        let sql = format!("drop database if exists \"{}\" with (force)", self.name);
        run_sql(servers.database_url(), &sql).map(|_| ())
    }
}

fn create_database(maintenance_url: &str, name: &str) -> Result<(), Error> {
    let found = run_sql(maintenance_url, &format!("select 1 from pg_database where datname = '{name}'"))?;
    if found.trim() == "1" {
        return Ok(());
    }
    let sql = format!("create database \"{name}\" template template0");
    run_sql(maintenance_url, &sql).map(|_| ())
}

fn with_database(url: &str, name: &str) -> Result<String, Error> {
    let mut url = Url::parse(url).map_err(|error| Error::Usage(format!("the database's URL: {error}")))?;
    url.set_path(name);
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_replaced_and_everything_else_in_the_url_stays() {
        let url = with_database("postgres://me:secret@[::1]:5432/postgres?sslmode=disable", "t1").unwrap();
        assert_eq!(url, "postgres://me:secret@[::1]:5432/t1?sslmode=disable");
        assert!(with_database("not a url", "t1").is_err());
    }
}
