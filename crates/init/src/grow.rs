//! The data partition grows to the disk: an image is small, the disk that it is written to is not.
//!
//! Once, at the first start; afterwards there is nothing to grow. Each step that was done is found done by the next start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use headgate_update::disk::Partition;
use headgate_update::gpt::{self, GptError, Grown};
use nix::libc;

/// Why it stays as it is: the box works all the same, with less room.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// A file or device cannot be used.
    #[error("cannot use {path}")]
    Access {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The table is not what it should be.
    #[error(transparent)]
    Table(#[from] GptError),
    /// The kernel does not take the new size.
    #[error("the kernel refuses to {what}")]
    Kernel {
        /// What it was asked.
        what: &'static str,
        /// Why.
        source: nix::Error,
    },
}

/// `struct blkpg_partition` (`include/uapi/linux/blkpg.h`).
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

/// `BLKPG_RESIZE_PARTITION`: also while a file system on it is mounted.
const RESIZE_PARTITION: i32 = 3;

nix::ioctl_write_ptr_bad!(
    /// `BLKPG`, `_IO(0x12, 105)`.
    blkpg,
    nix::request_code_none!(0x12, 105),
    BlkpgArgument
);
nix::ioctl_write_ptr!(
    /// `EXT4_IOC_RESIZE_FS` (`fs/ext4/ext4.h`): how many blocks the mounted file system should have.
    resize_file_system,
    b'f',
    16,
    u64
);

/// Lets the partition end where its disk does. `None`: it does.
pub fn partition(sys: &Path, partition: &Partition) -> Result<Option<Grown>, GrowError> {
    let access = |path: &Path| {
        let path = path.to_owned();
        move |source| GrowError::Access { path, source }
    };
    let size = sys.join("class/block").join(&partition.disk).join("size");
    let sectors = std::fs::read_to_string(&size).map_err(access(&size))?;
    let sectors: u64 = sectors.trim().parse().map_err(|_| access(&size)(io::ErrorKind::InvalidData.into()))?;
    let device = Path::new("/dev").join(&partition.disk);
    let synchronous = libc::O_SYNC | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(synchronous).open(&device);
    let disk = opened.map_err(access(&device))?;
    let Some(grown) = gpt::grow_last(&disk, sectors * gpt::SECTOR)? else { return Ok(None) };
    tell_kernel(&disk, grown)?;
    Ok(Some(grown))
}

fn tell_kernel(disk: &File, grown: Grown) -> Result<(), GrowError> {
    let kernel = |source| GrowError::Kernel { what: "let the partition grow", source };
    let signed = |number: u64| i64::try_from(number).map_err(|_| kernel(nix::Error::EOVERFLOW));
    let mut data = BlkpgPartition {
        start: signed(grown.start)?,
        length: signed(grown.size)?,
        number: grown.number.cast_signed(),
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let length = i32::try_from(size_of::<BlkpgPartition>()).expect("it has 152 bytes");
    let argument = BlkpgArgument { operation: RESIZE_PARTITION, flags: 0, length, data: &raw mut data };
    // SAFETY: the disk is open, and the argument and what it points to live over the call.
    unsafe { blkpg(disk.as_raw_fd(), &raw const argument) }.map(drop).map_err(kernel)
}

/// Lets the ext4 that is mounted at `mount_point` fill its partition, whose size in bytes is `size`.
pub fn file_system(mount_point: &Path, size: u64) -> Result<(), GrowError> {
    let directory =
        File::open(mount_point).map_err(|source| GrowError::Access { path: mount_point.to_owned(), source })?;
    let kernel = |source| GrowError::Kernel { what: "let the file system grow", source };
    let block = nix::sys::statvfs::fstatvfs(&directory).map_err(kernel)?.fragment_size();
    let blocks = size / block;
    // SAFETY: the directory is open and `blocks` is the u64 that the request reads.
    match unsafe { resize_file_system(directory.as_raw_fd(), &raw const blocks) } {
        // It has that size.
        Ok(_) | Err(nix::Error::EINVAL) => Ok(()),
        Err(source) => Err(kernel(source)),
    }
}
