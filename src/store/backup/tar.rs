//! As much of the tar format (POSIX ustar, and GNU's binary lengths past 8 GiB) as a backup needs: plain files by name
//! and length, nothing else. The reader takes only what the writer writes, byte for byte, so that no damaged byte is
//! overlooked because it does not matter.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use super::BackupError;

const BLOCK: usize = 512;
/// Bytes on their way from file to file.
const PART: usize = 64 << 10;
/// Lengths that eleven octal digits can say.
const OCTAL: u64 = 1 << 33;

/// The block before a file's bytes.
fn header(name: &str, bytes: u64) -> Result<[u8; BLOCK], BackupError> {
    let mut block = [0; BLOCK];
    if name.len() > 100 {
        return Err(BackupError::Refused(format!("`{name}` is too long a name for a backup")));
    }
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000600\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    if bytes < OCTAL {
        block[124..136].copy_from_slice(format!("{bytes:011o}\0").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&bytes.to_be_bytes());
    }
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// Name and length in a header that is one of ours.
fn parse(block: &[u8; BLOCK]) -> Option<(String, u64)> {
    let name = block[..100].split(|b| *b == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    let bytes = match block[124] {
        0x80 => u64::from_be_bytes(block[128..136].try_into().ok()?),
        _ => u64::from_str_radix(std::str::from_utf8(&block[124..135]).ok()?, 8).ok()?,
    };
    (header(name, bytes).ok()? == *block).then(|| (name.to_owned(), bytes))
}

fn padding(bytes: u64) -> usize {
    (BLOCK - (bytes % BLOCK as u64) as usize) % BLOCK
}

/// Writes an archive.
pub struct Writer<'a>(pub &'a mut dyn Write);

impl Writer<'_> {
    /// One file of exactly so many bytes; gives their SHA-256.
    pub fn file(&mut self, name: &str, bytes: u64, from: &mut dyn Read) -> Result<[u8; 32], BackupError> {
        self.put(&header(name, bytes)?)?;
        let mut hash = Sha256::new();
        let mut left = bytes;
        let mut part = vec![0; PART];
        while left > 0 {
            let wanted = part.len().min(usize::try_from(left).unwrap_or(PART));
            from.read_exact(&mut part[..wanted]).map_err(|e| BackupError::failed(name, &e))?;
            hash.update(&part[..wanted]);
            self.put(&part[..wanted])?;
            left -= wanted as u64;
        }
        self.put(&[0; BLOCK][..padding(bytes)])?;
        Ok(hash.finalize().into())
    }

    /// The end of the archive.
    pub fn end(&mut self) -> Result<(), BackupError> {
        self.put(&[0; 2 * BLOCK])?;
        self.0.flush().map_err(|e| BackupError::failed("the backup cannot be written", &e))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.0.write_all(bytes).map_err(|e| BackupError::failed("the backup cannot be written", &e))
    }
}

/// Reads an archive from its beginning.
pub struct Reader<'a>(&'a mut dyn Read);

impl<'a> Reader<'a> {
    pub fn new(input: &'a mut dyn Read) -> Reader<'a> {
        Reader(input)
    }

    /// Name and length of the next file; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(String, u64)>, BackupError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let found = parse(&block).ok_or_else(|| unsound("it is no backup, or the head of a file in it is damaged"))?;
        Ok(Some(found))
    }

    /// The bytes of the file that [`Reader::next`] told of; gives their SHA-256.
    pub fn copy(&mut self, bytes: u64, out: &mut dyn Write) -> Result<[u8; 32], BackupError> {
        let mut hash = Sha256::new();
        let mut left = bytes;
        let mut part = vec![0; PART];
        while left > 0 {
            let wanted = part.len().min(usize::try_from(left).unwrap_or(PART));
            self.fill(&mut part[..wanted])?;
            hash.update(&part[..wanted]);
            out.write_all(&part[..wanted]).map_err(|e| BackupError::failed("a file cannot be written", &e))?;
            left -= wanted as u64;
        }
        self.zeros(padding(bytes))?;
        Ok(hash.finalize().into())
    }

    /// The end of the archive, with nothing after it.
    pub fn end(&mut self) -> Result<(), BackupError> {
        self.zeros(2 * BLOCK)?;
        match self.0.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(unsound("something follows its end")),
            Err(e) => Err(BackupError::failed("the backup cannot be read", &e)),
        }
    }

    fn zeros(&mut self, count: usize) -> Result<(), BackupError> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        if bytes.iter().all(|b| *b == 0) { Ok(()) } else { Err(unsound("what fills a file up is damaged")) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.0.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => unsound("it was cut short"),
            _ => BackupError::failed("the backup cannot be read", &e),
        })
    }
}

fn unsound(what: &str) -> BackupError {
    BackupError::Unsound(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_any_name_and_length_again() {
        for bytes in [0, 1, 511, OCTAL - 1, OCTAL, u64::MAX] {
            let block = header("journal-2026-11.redb", bytes).unwrap();
            assert_eq!(parse(&block), Some(("journal-2026-11.redb".into(), bytes)));
            for at in 0..BLOCK {
                let mut flipped = block;
                flipped[at] ^= 1;
                assert_eq!(parse(&flipped), None, "byte {at} of the header of {bytes} bytes");
            }
        }
    }
}
