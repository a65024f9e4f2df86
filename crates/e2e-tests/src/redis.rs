//! Redis, past everything: commands as a client would send them (RESP 2).

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends one command and reads a reply that is a status, a number or one string; none for a nil.
///
/// # Errors
/// Redis does not answer, says no, or answers with a list.
pub async fn command(url: &str, words: &[&str]) -> Result<Option<String>> {
    let address = url.trim_start_matches("redis://").split('/').next().unwrap_or_default();
    let mut redis = BufReader::new(TcpStream::connect(address).await?);
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    redis.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    redis.read_line(&mut line).await?;
    let (kind, rest) = line.trim_end().split_at_checked(1).context("Redis hung up")?;
    match kind {
        "+" | ":" => Ok(Some(rest.to_owned())),
        "$" if rest == "-1" => Ok(None),
        "$" => {
            let mut text = vec![0; rest.parse()?];
            redis.read_exact(&mut text).await?;
            Ok(Some(String::from_utf8(text)?))
        }
        _ => bail!("{words:?} was answered {line}"),
    }
}
