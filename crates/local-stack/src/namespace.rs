//! A part of the servers that belongs to one test, or to the stack of `up`.

use url::Url;

use crate::credentials::random_text;
use crate::error::Error;
use crate::servers::Servers;

/// Creates the roles that services use in production.
const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");
/// The role that owns the schema.
pub(crate) const OWNER: &str = "firstcome_migrator";

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
    /// URL of the namespace's own database, for the servers' administrator.
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
        create_database(servers, name)?;
        Ok(Self {
            name: name.to_owned(),
            topic_prefix: format!("{name}."),
            group_prefix: format!("{name}."),
            redis_key_prefix: format!("{name}:"),
            database_url: with_database(servers.database_url(), name)?,
            partitions,
        })
    }

    /// URL of the namespace's own database for one of the services' roles.
    pub fn database_url_as(&self, role: &str) -> Result<String, Error> {
        let mut url = parse(&self.database_url)?;
        match url.set_username(role) {
            Ok(()) => Ok(url.into()),
            Err(()) => Err(Error::Usage(format!("the database's URL names no server: {}", self.name))),
        }
    }

    /// Drops the namespace's database, whoever is connected to it. Topics and keys stay; they go with the servers.
    pub fn drop_database(&self, servers: &Servers) -> Result<(), Error> {
        let sql = format!("drop database if exists \"{}\" with (force)", self.name);
        servers.run_sql(servers.database_url(), &sql).map(|_| ())
    }
}

/// Creates the database for the role that owns the schema, and the roles before it.
fn create_database(servers: &Servers, name: &str) -> Result<(), Error> {
    let maintenance_url = servers.database_url();
    let look = format!("select 1 from pg_database where datname = '{name}'");
    let found = servers.run_sql(maintenance_url, &format!("{}; {look}", roles(maintenance_url)?))?;
    if found.trim() == "1" {
        return Ok(());
    }
    let sql = format!("create database \"{name}\" template template0 owner {OWNER}");
    servers.run_sql(maintenance_url, &sql).map(|_| ())
}

/// The services' roles, as in production; here they log in themselves, with the administrator's password.
fn roles(maintenance_url: &str) -> Result<String, Error> {
    let url = parse(maintenance_url)?;
    let password = url.password().map_or_else(String::new, |password| format!(" password '{password}'"));
    let login = format!(
        "do $$ declare one text; begin for one in select rolname from pg_roles where rolname like 'firstcome\\_%' \
         and not rolcanlogin loop execute 'alter role ' || one || ' login{}'; end loop; end $$",
        password.replace('\'', "''")
    );
    Ok(format!("{ROLES}\n{login}"))
}

fn with_database(url: &str, name: &str) -> Result<String, Error> {
    let mut url = parse(url)?;
    url.set_path(name);
    Ok(url.into())
}

fn parse(url: &str) -> Result<Url, Error> {
    Url::parse(url).map_err(|error| Error::Usage(format!("the database's URL: {error}")))
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

    #[test]
    fn a_role_has_the_same_url_otherwise() {
        let namespace = Namespace {
            name: "t1".to_owned(),
            topic_prefix: String::new(),
            group_prefix: String::new(),
            redis_key_prefix: String::new(),
            database_url: "postgres://me:secret@[::1]:5432/t1?sslmode=disable".to_owned(),
            partitions: 1,
        };
        let url = namespace.database_url_as("reader").unwrap();
        assert_eq!(url, "postgres://reader:secret@[::1]:5432/t1?sslmode=disable");
    }
}
