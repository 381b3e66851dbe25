//! What ld.so reads of an ELF file, and no more: header, program headers, PT_INTERP, PT_DYNAMIC, notes.
//!
//! The files may be hostile (a jail's user wrote them), so every read is bounded, every offset is checked, nothing is
//! mapped (a file truncated under a map kills the reader) and names stay bytes. goblin decodes the tables;
//! `Elf::parse` is never called, for it reads sections and symbols that a loader never looks at.

use std::fmt;
use std::io;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::Elf as ElfFile;
use goblin::elf::dynamic::{self, DT_NULL, Dyn};
use goblin::elf::header::{self, Header};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader};
use serde::Deserialize;

use crate::host::HostFile;

/// What the loader compares before it looks further: two files fit together if all of it is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Abi {
    /// 64-bit file (ELFCLASS64), else 32-bit.
    pub wide: bool,
    /// Little-endian, else big-endian.
    pub little: bool,
    /// `e_machine`.
    pub machine: u16,
}

/// One library that PT_DYNAMIC asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The name, as written: a soname, or a path if it holds a slash.
    pub name: Vec<u8>,
    /// Which entry asks.
    pub tag: DependencyTag,
}

/// How strongly a dependency is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependencyTag {
    /// DT_NEEDED.
    Needed,
    /// DT_FILTER: loaded like DT_NEEDED.
    Filter,
    /// DT_AUXILIARY: loaded if it is there.
    Auxiliary,
}

/// One `.note.dlopen` entry: a feature that wants a library if it is there (UAPI "ELF dlopen metadata").
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dlopen {
    /// What it is for.
    #[serde(default)]
    pub feature: String,
    /// `required`, `recommended` or `suggested`.
    #[serde(default)]
    pub priority: String,
    /// Names that serve, best first.
    pub soname: Vec<String>,
}

/// What the loader reads of one ELF file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// PT_INTERP: the loader the kernel starts.
    pub interpreter: Option<Vec<u8>>,
    /// Whether there is a PT_DYNAMIC at all (a static-pie has one, a plain static program none).
    pub dynamic: bool,
    /// DT_SONAME.
    pub soname: Option<Vec<u8>>,
    /// Libraries asked for, in order.
    pub dependencies: Vec<Dependency>,
    /// DT_RPATH; None if there is a DT_RUNPATH, which puts it out of force.
    pub rpath: Option<Vec<u8>>,
    /// DT_RUNPATH.
    pub runpath: Option<Vec<u8>>,
    /// DF_1_NODEFLIB: default directories are not searched for this file's needs.
    pub nodeflib: bool,
    /// Libraries it says it may dlopen.
    pub dlopen: Vec<Dlopen>,
}

/// Header and program headers of an ELF file; enough to tell whether a loader would take the file.
#[derive(Debug)]
pub struct Head {
    /// Class, byte order, machine.
    pub abi: Abi,
    /// ET_EXEC or ET_DYN: something that can be started or loaded (not an object file or a core).
    pub loadable: bool,
    /// Something in the header that ld.so refuses in a library.
    pub refused: Option<&'static str>,
    ctx: Ctx,
    segments: Vec<ProgramHeader>,
    /// The first bytes of the file, already read.
    start: Vec<u8>,
}

/// Why a file that starts like an ELF file cannot be used.
#[derive(Debug)]
pub enum ElfError {
    /// Reading failed.
    Io(io::Error),
    /// The bytes make no sense; the text says what.
    Malformed(&'static str),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read it: {error}"),
            Self::Malformed(what) => write!(f, "not a sound ELF file: {what}"),
        }
    }
}

impl std::error::Error for ElfError {}

impl From<io::Error> for ElfError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, ElfError>;

/// Bytes read in the first go: header, program headers, and mostly PT_INTERP, the notes and the names of libraries.
const START: usize = 8192;
/// As the kernel: 64 KiB of program headers.
const MAX_SEGMENTS: usize = 65536;
/// A dynamic section has some 30 entries.
const MAX_DYNAMIC: usize = 128 * 1024;
/// The largest desktop programs name some 300 libraries.
const MAX_DEPENDENCIES: usize = 2048;
/// PATH_MAX, for names; a run path may list many.
const MAX_NAME: usize = 4096;
const MAX_RUNPATH: usize = 65536;
/// All notes of one file together.
const MAX_NOTES: usize = 256 * 1024;
/// Strings lying this near to each other are read in one go.
const MAX_STRINGS: usize = 64 * 1024;

const NT_FDO_DLOPEN: u32 = 0x407c_0c0a;
const DF_1_NODEFLIB: u64 = 0x800;

impl Head {
    /// Read the head of a file; None if it is no ELF file at all.
    pub fn read(file: &dyn HostFile) -> Result<Option<Self>> {
        let mut start = vec![0; START];
        let got = file.read_at(&mut start, 0)?;
        start.truncate(got);
        if !start.starts_with(header::ELFMAG) {
            return Ok(None);
        }
        let ident = start.get(..16).ok_or(ElfError::Malformed("file too short"))?;
        let wide = match ident[header::EI_CLASS] {
            header::ELFCLASS32 => false,
            header::ELFCLASS64 => true,
            _ => return Err(ElfError::Malformed("unknown class")),
        };
        let little = match ident[header::EI_DATA] {
            header::ELFDATA2LSB => true,
            header::ELFDATA2MSB => false,
            _ => return Err(ElfError::Malformed("unknown byte order")),
        };
        if start.len() < if wide { 64 } else { 52 } {
            return Err(ElfError::Malformed("file too short"));
        }
        let ident_fault = fault_in_ident(ident);
        let header = ElfFile::parse_header(&start).map_err(|_| ElfError::Malformed("unreadable header"))?;
        let container = if wide { Container::Big } else { Container::Little };
        let ctx = Ctx::new(container, if little { Endian::Little } else { Endian::Big });
        let loadable = matches!(header.e_type, header::ET_EXEC | header::ET_DYN);
        let mut head = Self {
            abi: Abi { wide, little, machine: header.e_machine },
            loadable,
            refused: ident_fault,
            ctx,
            segments: Vec::new(),
            start,
        };
        if loadable {
            head.read_segments(file, &header)?;
        }
        Ok(Some(head))
    }

    fn read_segments(&mut self, file: &dyn HostFile, header: &Header) -> Result<()> {
        let count = usize::from(header.e_phnum);
        let each = ProgramHeader::size(self.ctx);
        if count > 0 && usize::from(header.e_phentsize) != each {
            return Err(ElfError::Malformed("program headers of an odd size"));
        }
        let len = count * each;
        if len > MAX_SEGMENTS {
            return Err(ElfError::Malformed("too many program headers"));
        }
        let table = self.bytes(file, header.e_phoff, len)?;
        if table.len() < len {
            return Err(ElfError::Malformed("program headers lie past the end of the file"));
        }
        self.segments = ProgramHeader::parse(&table, 0, count, self.ctx)
            .map_err(|_| ElfError::Malformed("unreadable program headers"))?;
        Ok(())
    }

    /// Read what the loader wants of the rest of the file.
    pub fn body(&self, file: &dyn HostFile) -> Result<Elf> {
        let mut elf = Elf { interpreter: self.interpreter(file)?, ..Elf::default() };
        if let Some(segment) = self.segments.iter().find(|s| s.p_type == PT_DYNAMIC) {
            elf.dynamic = true;
            self.read_dynamic(file, segment, &mut elf)?;
        }
        elf.dlopen = self.dlopen_notes(file)?;
        Ok(elf)
    }

    /// PT_INTERP, by the kernel's rules: the first one, by file offset, at most PATH_MAX, ending in NUL.
    fn interpreter(&self, file: &dyn HostFile) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segments.iter().find(|s| s.p_type == PT_INTERP) else {
            return Ok(None);
        };
        let len = usize::try_from(segment.p_filesz).unwrap_or(usize::MAX);
        if !(2..=MAX_NAME).contains(&len) {
            return Err(ElfError::Malformed("interpreter name of an odd length"));
        }
        let name = self.bytes(file, segment.p_offset, len)?;
        if name.len() < len || name.last() != Some(&0) {
            return Err(ElfError::Malformed("interpreter name without an end"));
        }
        Ok(Some(until_nul(&name).to_vec()))
    }

    fn read_dynamic(&self, file: &dyn HostFile, segment: &ProgramHeader, elf: &mut Elf) -> Result<()> {
        let entries = self.dynamic_entries(file, segment)?;
        let last = |tag: u64| entries.iter().rev().find(|d| d.d_tag == tag).map(|d| d.d_val);
        elf.nodeflib = last(dynamic::DT_FLAGS_1).unwrap_or(0) & DF_1_NODEFLIB != 0;
        let strings = match last(dynamic::DT_STRTAB) {
            Some(address) => self.file_offset(address),
            None => None,
        };
        let wanted = entries.iter().filter(|d| names_a_string(d.d_tag)).map(|d| d.d_val);
        let Some((low, high)) = wanted.clone().min().zip(wanted.max()) else {
            return Ok(());
        };
        let base = strings.ok_or(ElfError::Malformed("names without a string table"))?;
        let table = Strings::read(self, file, base, low, high)?;

        for entry in &entries {
            let tag = match entry.d_tag {
                dynamic::DT_NEEDED => DependencyTag::Needed,
                DT_FILTER => DependencyTag::Filter,
                DT_AUXILIARY => DependencyTag::Auxiliary,
                _ => continue,
            };
            if elf.dependencies.len() >= MAX_DEPENDENCIES {
                return Err(ElfError::Malformed("too many libraries"));
            }
            elf.dependencies.push(Dependency { name: table.get(entry.d_val, MAX_NAME)?, tag });
        }
        let text = |tag, max| last(tag).map(|at| table.get(at, max)).transpose();
        elf.soname = text(dynamic::DT_SONAME, MAX_NAME)?;
        elf.runpath = text(dynamic::DT_RUNPATH, MAX_RUNPATH)?;
        if elf.runpath.is_none() {
            elf.rpath = text(dynamic::DT_RPATH, MAX_RUNPATH)?;
        }
        Ok(())
    }

    fn dynamic_entries(&self, file: &dyn HostFile, segment: &ProgramHeader) -> Result<Vec<Dyn>> {
        // ld.so reads it where it is mapped; the offset in the segment itself only serves files that map it nowhere.
        let offset = self.file_offset(segment.p_vaddr).unwrap_or(segment.p_offset);
        let size = usize::try_from(segment.p_filesz).unwrap_or(usize::MAX);
        if size > MAX_DYNAMIC {
            return Err(ElfError::Malformed("dynamic section too long"));
        }
        let bytes = self.bytes(file, offset, size)?;
        if bytes.len() < size {
            return Err(ElfError::Malformed("dynamic section lies past the end of the file"));
        }
        // The lone segment handed over says "the table is these bytes"; goblin then follows no address of the file's.
        let whole = ProgramHeader { p_type: PT_DYNAMIC, p_filesz: size as u64, ..ProgramHeader::default() };
        let parsed = dynamic::Dynamic::parse(&bytes, &[whole], self.ctx)
            .map_err(|_| ElfError::Malformed("unreadable dynamic section"))?;
        let mut entries = parsed.map(|d| d.dyns).unwrap_or_default();
        entries.retain(|d| d.d_tag != DT_NULL);
        Ok(entries)
    }

    fn dlopen_notes(&self, file: &dyn HostFile) -> Result<Vec<Dlopen>> {
        let mut found = Vec::new();
        let mut left = MAX_NOTES;
        for segment in self.segments.iter().filter(|s| s.p_type == PT_NOTE) {
            let len = usize::try_from(segment.p_filesz).unwrap_or(usize::MAX).min(left);
            left -= len;
            let bytes = self.bytes(file, segment.p_offset, len)?;
            let align = if segment.p_align == 8 { 8 } else { 4 };
            for note in (Notes { rest: &bytes, align, little: self.abi.little }) {
                if note.kind == NT_FDO_DLOPEN && until_nul(note.name) == b"FDO" {
                    // Metadata that cannot be read asks for nothing; it is optional by its nature.
                    found.extend(
                        serde_json::from_slice::<Vec<Dlopen>>(until_nul(note.text)).unwrap_or_default(),
                    );
                }
            }
        }
        Ok(found)
    }

    /// Where an address of the mapped file lies in the file.
    fn file_offset(&self, address: u64) -> Option<u64> {
        let load = self.segments.iter().filter(|s| s.p_type == PT_LOAD);
        load.filter_map(|s| {
            let into = address.checked_sub(s.p_vaddr)?;
            if into < s.p_filesz { s.p_offset.checked_add(into) } else { None }
        })
        .next()
    }

    /// At most `len` bytes at `offset`: from the start already read if they lie there.
    fn bytes(&self, file: &dyn HostFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        if let Ok(from) = usize::try_from(offset) {
            if let Some(part) = from.checked_add(len).and_then(|to| self.start.get(from..to)) {
                return Ok(part.to_vec());
            }
        }
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, offset)?;
        bytes.truncate(got);
        Ok(bytes)
    }
}

const DT_AUXILIARY: u64 = 0x7fff_fffd;
const DT_FILTER: u64 = 0x7fff_ffff;

fn names_a_string(tag: u64) -> bool {
    matches!(
        tag,
        dynamic::DT_NEEDED
            | dynamic::DT_SONAME
            | dynamic::DT_RPATH
            | dynamic::DT_RUNPATH
            | DT_AUXILIARY
            | DT_FILTER
    )
}

/// What glibc's `open_verify` refuses in the first 16 bytes, in its own order.
fn fault_in_ident(ident: &[u8]) -> Option<&'static str> {
    if ident[6] != 1 {
        return Some("ELF file version ident does not match current one");
    }
    if !matches!(ident[7], 0 | 3 | 64 | 97) {
        return Some("ELF file OS ABI invalid");
    }
    if ident[9..].iter().any(|b| *b != 0) {
        return Some("nonzero padding in e_ident");
    }
    None
}

/// The part of the string table that the dynamic section refers to.
struct Strings<'f> {
    file: &'f dyn HostFile,
    base: u64,
    /// Bytes from `low` on, if they lie close enough together to have been read in one go.
    low: u64,
    part: Vec<u8>,
}

impl<'f> Strings<'f> {
    fn read(head: &Head, file: &'f dyn HostFile, base: u64, low: u64, high: u64) -> Result<Self> {
        let mut part = Vec::new();
        if let Some(span) = usize::try_from(high - low).ok().filter(|span| *span <= MAX_STRINGS) {
            let at = base.checked_add(low).ok_or(ElfError::Malformed("string table past all addresses"))?;
            part = head.bytes(file, at, span + 512)?;
        }
        Ok(Self { file, base, low, part })
    }

    /// The string at `at`; it must end within `max` bytes and within the file.
    fn get(&self, at: u64, max: usize) -> Result<Vec<u8>> {
        let near = at.checked_sub(self.low).and_then(|n| usize::try_from(n).ok());
        if let Some(rest) = near.and_then(|n| self.part.get(n..)) {
            let text = until_nul(rest);
            if text.len() < rest.len() && text.len() < max {
                return Ok(text.to_vec());
            }
        }
        let at = self.base.checked_add(at).ok_or(ElfError::Malformed("string past all addresses"))?;
        let mut bytes = vec![0; max];
        let got = self.file.read_at(&mut bytes, at)?;
        let text = until_nul(&bytes[..got]);
        if text.len() == got {
            return Err(ElfError::Malformed("string without an end"));
        }
        Ok(text.to_vec())
    }
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    text: &'a [u8],
}

/// Notes of one segment. (goblin's own iterator takes names for UTF-8 and stops at the first that is not.)
struct Notes<'a> {
    rest: &'a [u8],
    align: usize,
    little: bool,
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let word = |at: usize| -> Option<u32> {
            let bytes = self.rest.get(at..at + 4)?.try_into().ok()?;
            Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
        };
        let (name_len, text_len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name_end = 12usize.checked_add(name_len)?;
        let text_start = name_end.checked_next_multiple_of(self.align)?;
        let text_end = text_start.checked_add(text_len)?;
        let name = self.rest.get(12..name_end)?;
        let text = self.rest.get(text_start..text_end)?;
        let next = text_end.checked_next_multiple_of(self.align)?;
        self.rest = self.rest.get(next..).unwrap_or(&[]);
        Some(Note { kind, name, text })
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or(&[])
}
