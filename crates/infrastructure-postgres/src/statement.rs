//! Statements that live in `.sql` files and are prepared once per connection.
//!
//! diesel caches prepared statements only where a query has a static id, which `sql_query` has not. A file's placeholders `$1`, `$2`, … must
//! stand in this order, each once: its pieces are pushed with the binds between them.

/// The pieces of a statement between its placeholders.
pub(crate) fn pieces(sql: &'static str) -> Pieces {
    Pieces { rest: sql, next: 1 }
}

pub(crate) struct Pieces {
    rest: &'static str,
    next: usize,
}

impl Iterator for Pieces {
    type Item = &'static str;

    /// The text up to the next placeholder; then the text behind the last one; then nothing.
    fn next(&mut self) -> Option<&'static str> {
        if self.rest.is_empty() {
            return None;
        }
        let placeholder = format!("${}", self.next);
        let piece = match self.rest.split_once(placeholder.as_str()) {
            Some((before, behind)) => {
                self.rest = behind;
                before
            }
            None => std::mem::take(&mut self.rest),
        };
        self.next += 1;
        Some(piece)
    }
}

/// Makes a struct a cached query: its fields, in order, are the statement's placeholders.
macro_rules! statement {
    ($name:ident, $file:literal, ($($field:ident : $sql_type:ty),* $(,)?) -> $row:ty) => {
        impl diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
            ) -> diesel::QueryResult<()> {
                let mut pieces = $crate::statement::pieces(include_str!($file));
                $(
                    out.push_sql(pieces.next().unwrap_or_default());
                    out.push_bind_param::<$sql_type, _>(&self.$field)?;
                )*
                out.push_sql(pieces.next().unwrap_or_default());
                Ok(())
            }
        }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;

            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::Query for $name<'_> {
            type SqlType = $row;
        }
    };
}

pub(crate) use statement;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_falls_apart_at_its_placeholders() {
        let sql = "SELECT $1, $2::int[] FROM x WHERE y = $3";
        assert_eq!(pieces(sql).collect::<Vec<_>>(), ["SELECT ", ", ", "::int[] FROM x WHERE y = "]);
        let many = "$1$2$3$4$5$6$7$8$9$10 end";
        assert_eq!(pieces(many).count(), 11);
    }
}
