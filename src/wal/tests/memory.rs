//! Files in memory that fail, crash and forget as disks do.
//!
//! ```text
//!  current   what the process reads: everything written                    lost by power loss …
//!  unsynced  writes since the last sync, each kept, torn or lost by it     … all of it, or a random part
//!  durable   what was synced
//! ```
//!
//! A failed sync takes the unsynced writes for clean: they are read on, and no later sync makes them durable.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::random::Random;
use crate::wal::storage::{Storage, StorageFile};

/// What happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Half of a write or read is done.
    Short,
    /// EIO, after half of a write.
    Io,
    /// Half of a write is done, and what follows finds no space.
    NoSpace,
    /// There is no descriptor to create or open a file with; other calls succeed.
    NoDescriptors,
    /// The process ends, after half of a write: this call and all later ones fail.
    Crash,
}

/// What a power loss does to what was not synced.
#[derive(Debug, Clone)]
pub(crate) enum Loss {
    /// Only the process ended.
    Nothing,
    Everything,
    /// Each write is kept, lost or torn.
    Random(u64),
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<(String, Option<usize>)>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    crashed: bool,
    /// The next write finds no space.
    full: bool,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryStorage(Arc<Mutex<Disk>>);

struct MemoryFile(Arc<Mutex<Disk>>, usize);

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Write { offset, bytes: written } => {
            bytes.resize(bytes.len().max(offset + written.len()), 0);
            bytes[*offset..offset + written.len()].copy_from_slice(written);
        }
        Change::Length(length) => bytes.resize(*length, 0),
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&change, &mut self.current);
        self.unsynced.push(change);
    }
}

impl Disk {
    /// Counts a call. `Some`: this is the one with the fault.
    fn call(&mut self) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(io::Error::other("crashed"));
        }
        self.calls += 1;
        let Some((_, fault)) = self.fault.take_if(|(call, _)| *call == self.calls) else { return Ok(None) };
        self.crashed = fault == Fault::Crash;
        Ok(Some(fault))
    }

    /// A call that is done or not done.
    fn whole_call(&mut self) -> io::Result<()> {
        match self.call()? {
            None | Some(Fault::Short | Fault::NoDescriptors) => Ok(()),
            Some(Fault::NoSpace) => Err(ErrorKind::StorageFull.into()),
            Some(Fault::Io | Fault::Crash) => Err(io::Error::other("input/output error")),
        }
    }

    /// A call that needs a descriptor.
    fn opening_call(&mut self) -> io::Result<()> {
        let calls = self.calls + 1;
        let lacks = self.fault == Some((calls, Fault::NoDescriptors));
        self.whole_call()?;
        if lacks { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(()) }
    }

    fn set_name(&mut self, name: &str, inode: Option<usize>) {
        set_name(&mut self.names, name, inode);
        self.unsynced_names.push((name.to_owned(), inode));
    }
}

fn set_name(names: &mut BTreeMap<String, usize>, name: &str, inode: Option<usize>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

impl MemoryStorage {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same contents.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.disk().clone())))
    }

    /// The `call`-th call from now on (1 is the next) meets `fault`.
    pub(crate) fn fail_at(&self, call: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.fault = Some((disk.calls + call, fault));
    }

    /// Whether the fault has not come yet.
    pub(crate) fn is_armed(&self) -> bool {
        self.disk().fault.is_some()
    }

    /// The process has ended, and the power with it as `loss` says. The next one finds what is left.
    pub(crate) fn restart(&self, loss: Loss) {
        let mut disk = self.disk();
        (disk.crashed, disk.fault) = (false, None);
        let mut random = match loss {
            Loss::Nothing => return,
            Loss::Everything => None,
            Loss::Random(seed) => Some(Random::seeded(seed)),
        };
        let mut keeps = || random.as_mut().map_or(0, |random| random.next_u64());
        for inode in &mut disk.inodes {
            for mut change in std::mem::take(&mut inode.unsynced) {
                let drawn = keeps();
                if let Change::Write { bytes, .. } = &mut change
                    && drawn % 4 == 3
                {
                    bytes.truncate(keeps() as usize % (bytes.len() + 1));
                }
                if drawn % 4 > 1 {
                    apply(&change, &mut inode.durable);
                }
            }
            inode.current = inode.durable.clone();
        }
        for (name, inode) in std::mem::take(&mut disk.unsynced_names) {
            if keeps() % 2 == 1 {
                set_name(&mut disk.durable_names, &name, inode);
            }
        }
        disk.names = disk.durable_names.clone();
    }

    /// Names of the segments, in order.
    pub(crate) fn segments(&self) -> Vec<String> {
        self.disk().names.keys().filter(|name| !name.contains('/')).cloned().collect()
    }

    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        let disk = self.disk();
        disk.inodes[disk.names[name]].current.clone()
    }

    /// Changes what a file holds, as if it had always been so.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        let inode = &mut disk.inodes[inode];
        edit(&mut inode.current);
        (inode.durable, inode.unsynced) = (inode.current.clone(), Vec::new());
    }

    /// Gives a file another name.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let mut disk = self.disk();
        let inode = disk.names.remove(from).unwrap();
        disk.names.insert(to.to_owned(), inode);
    }
}

impl Storage for MemoryStorage {
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut disk = self.disk();
        disk.whole_call()?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let within = |name: &str| name.strip_prefix(&prefix).filter(|name| !name.contains('/')).map(str::to_owned);
        let size = |inode: &usize| disk.inodes[*inode].current.len() as u64;
        Ok(disk.names.iter().filter_map(|(name, inode)| Some((within(name)?, size(inode)))).collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        disk.opening_call()?;
        let mut inode = Inode::default();
        inode.change(Change::Length(bytes as usize));
        disk.inodes.push(inode);
        let inode = disk.inodes.len() - 1;
        disk.set_name(name, Some(inode));
        Ok(Arc::new(MemoryFile(self.0.clone(), inode)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        disk.opening_call()?;
        let inode = *disk.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile(self.0.clone(), inode)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.whole_call()?;
        if !disk.names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        disk.set_name(name, None);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.whole_call()?;
        disk.unsynced_names.clear();
        disk.durable_names = disk.names.clone();
        Ok(())
    }
}

impl MemoryFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }
}

impl StorageFile for MemoryFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk();
        let fault = disk.call()?;
        if std::mem::take(&mut disk.full) {
            return Err(ErrorKind::StorageFull.into());
        }
        let mut bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>();
        match fault {
            None => {}
            Some(Fault::NoDescriptors) => {}
            Some(Fault::Short) => bytes.truncate(bytes.len().div_ceil(2)),
            Some(_) => bytes.truncate(bytes.len() / 2),
        }
        let written = bytes.len();
        disk.inodes[self.1].change(Change::Write { offset: offset as usize, bytes });
        match fault {
            Some(Fault::Io | Fault::Crash) => Err(io::Error::other("input/output error")),
            Some(Fault::NoSpace) if written == 0 => Err(ErrorKind::StorageFull.into()),
            Some(Fault::NoSpace) => {
                disk.full = true;
                Ok(written)
            }
            Some(Fault::Short | Fault::NoDescriptors) | None => Ok(written),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk();
        let fault = disk.call()?;
        let from = disk.inodes[self.1].current.get(offset as usize..).unwrap_or_default();
        let bytes = from.len().min(buffer.len());
        let bytes = match fault {
            None | Some(Fault::NoDescriptors) => bytes,
            Some(Fault::Short) => bytes.div_ceil(2),
            Some(_) => return Err(io::Error::other("input/output error")),
        };
        buffer[..bytes].copy_from_slice(&from[..bytes]);
        Ok(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        let called = disk.whole_call();
        let crashed = disk.crashed;
        let inode = &mut disk.inodes[self.1];
        match called {
            Ok(()) => {
                for change in inode.unsynced.drain(..) {
                    apply(&change, &mut inode.durable);
                }
            }
            // The process ended in the middle: nothing is known of it yet.
            Err(_) if crashed => {}
            Err(_) => inode.unsynced.clear(),
        }
        called
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.whole_call()?;
        disk.inodes[self.1].change(Change::Length(bytes as usize));
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut disk = self.disk();
        disk.whole_call()?;
        Ok(disk.inodes[self.1].current.len() as u64)
    }
}
