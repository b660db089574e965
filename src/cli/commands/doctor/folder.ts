/**
 * Checks of a data folder and of the disk below it, whether a server has it open or not.
 *
 * Invariant: the folder stays as it is. The time of a sync is measured in a file that loses its name before
 * anything is written to it, so nothing is left however the command ends.
 */
import fs from 'node:fs'
import path from 'node:path'
import { performance } from 'node:perf_hooks'
import { SEGMENT_BYTES } from '../../../limits.js'
import { counted, sizeText, timeText } from '../../output.js'
import { checked, type Finding, failed, note, ok, warning } from './finding.js'

/** With less room the next segment of the log does not fit. */
const FREE_LEAST_BYTES = 2 * SEGMENT_BYTES
const FREE_LOW_SHARE = 0.05
const INODES_LOW = 1_000

const SYNC_BYTES = 4096
const SYNCS_MAX = 200
const SYNCS_MAX_MS = 2_000
/** A slower sync makes every commit slow. */
const SYNC_SLOW_MS = 20

export async function folderFindings(dir: string): Promise<Finding[]> {
  const place = existingPlace(dir)
  const folder = await checked('folder', 'Choose another folder with --data-dir.', () => contentFindings(dir))
  if (folder.some(({ level }) => level === 'failed')) return folder
  return [
    ...folder,
    ...(await checked('disk', 'Look at the disk with df.', () => diskFindings(place))),
    ...(await checked('sync', 'Look at the log of the system for errors of the disk.', () =>
      syncFindings(place),
    )),
  ]
}

/** The folder, or where it is absent the nearest one above it. */
function existingPlace(dir: string): string {
  let place = dir
  while (!fs.existsSync(place) && path.dirname(place) !== place) place = path.dirname(place)
  return place
}

const canWrite = (place: string): boolean => {
  try {
    fs.accessSync(place, fs.constants.W_OK | fs.constants.X_OK)
    return true
  } catch {
    return false
  }
}

async function contentFindings(dir: string): Promise<Finding[]> {
  if (!fs.existsSync(dir)) {
    const place = existingPlace(dir)
    if (fs.statSync(place).isDirectory() && canWrite(place))
      return [note('folder', `${dir} is absent; a server creates it`)]
    return [
      failed(
        'folder',
        `${dir} is absent, and cannot be made in ${place}`,
        'Make it, and give it to the user of the server.',
      ),
    ]
  }
  if (!fs.statSync(dir).isDirectory())
    return [failed('folder', `${dir} is not a folder`, 'Name another one.')]
  const names = fs.readdirSync(dir)
  if (!names.includes('log')) {
    if (names.length === 0) return [note('folder', `${dir} is empty`), ...accessFindings(dir)]
    return [failed('folder', `${dir} holds other files, and no log`, 'Name a data folder, or an empty one.')]
  }
  return [
    ...stateFindings(dir),
    ...accessFindings(dir),
    ...(await logFindings(dir)),
    ...asideFindings(dir, names),
  ]
}

function accessFindings(dir: string): Finding[] {
  const { mode, uid } = fs.statSync(dir)
  const octal = (mode & 0o777).toString(8)
  const findings: Finding[] = []
  if (!canWrite(dir))
    findings.push(
      warning(
        'permissions',
        `this user cannot write ${dir} (user ${uid}, mode ${octal})`,
        'Run as the user of the server, or serve it with --read-only.',
      ),
    )
  if ((mode & 0o077) !== 0)
    findings.push(
      warning('permissions', `other users can enter ${dir} (mode ${octal})`, 'chmod 700 keeps them out.'),
    )
  return findings.length > 0 ? findings : [ok('permissions', `mode ${octal}`)]
}

/** How much there is, by the names of the files. */
function stateFindings(dir: string): Finding[] {
  const sizes = (part: string, ending: RegExp): number[] => {
    const folder = path.join(dir, part)
    const names = fs.existsSync(folder) ? fs.readdirSync(folder) : []
    return names.filter((name) => ending.test(name)).map((name) => fs.statSync(path.join(folder, name)).size)
  }
  const sum = (list: readonly number[]): string => sizeText(list.reduce((total, size) => total + size, 0))
  const segments = sizes('log', /\.seg$/)
  const checkpoints = sizes('checkpoints', /\.db$/)
  const detail = `${counted(segments.length, 'segment')} (${sum(segments)}), ${counted(checkpoints.length, 'checkpoint')} (${sum(checkpoints)})`
  return [ok('folder', `${dir}: ${detail}`)]
}

/** The log is read where nobody appends to it. */
async function logFindings(dir: string): Promise<Finding[]> {
  const holder = holderOf(dir)
  if (holder !== undefined) return [note('log', `in use by ${holder}, so it was not read`)]
  const { crc32c } = await import('../../../ffi/library.js')
  const { inspectLog } = await import('../../../store/log/log.js')
  const { realDisk } = await import('../../../store/os/disk.js')
  const { newestEpoch, damage, tornBytes } = inspectLog(
    { disk: realDisk(), logDir: path.join(dir, 'log'), crc32c },
    () => {},
  )
  if (damage !== undefined) return [failed('log', damage, 'Run `mmsb log check`.')]
  const torn = tornBytes > 0 ? `; the start cuts ${tornBytes} bytes that a crash left at its end` : ''
  return [ok('log', `up to epoch ${newestEpoch}${torn}; \`mmsb log check\` reads all of it`)]
}

/** Who has the folder locked for writing: the kernel knows, and holder.txt has the words. */
export function holderOf(dir: string, locks = readText('/proc/locks')): string | undefined {
  const { ino, dev } = fs.statSync(dir, { bigint: true })
  // As glibc makes a device of these numbers, for those that are in use.
  const major = (dev >> 8n) & 0xfffn
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xfff00n)
  const place = [major, minor].map((number) => number.toString(16).padStart(2, '0'))
  const pattern = new RegExp(`FLOCK +ADVISORY +WRITE +(-?\\d+) ${place.join(':')}:${ino} `)
  const pid = pattern.exec(locks)?.[1]
  if (pid === undefined) return undefined
  return readText(path.join(dir, 'holder.txt')).trim() || `process ${pid}`
}

function readText(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

/** What repairs and cuts have set aside. */
const asideFindings = (dir: string, names: readonly string[]): Finding[] =>
  names
    .filter((name) => /^cut-\d+$/.test(name))
    .map((name) =>
      note(
        'set aside',
        `${path.join(dir, name)}: what a repair or a cut removed; delete it if nobody wants it`,
      ),
    )

/** A file system by the name that Linux has for it, and what is wrong with it. */
const FILE_SYSTEMS: readonly (readonly [type: RegExp, detail: string, advice: string])[] = [
  [
    /^(nfs4?|cifs|smb3|9p|afs|ceph|glusterfs|fuse\..*)$/,
    'files of another machine, where locks and syncs may not hold what they promise',
    'Use a disk of this machine.',
  ],
  [/^(tmpfs|ramfs)$/, 'files in memory, which are lost when the machine stops', 'Use a disk.'],
  [/^overlay$/, 'files of a container, which are lost with it', 'Mount a volume for the data folder.'],
]

function diskFindings(place: string): Finding[] {
  const { bsize, bavail, blocks, ffree, files } = fs.statfsSync(place)
  const mount = mountOf(fs.realpathSync(place), readText('/proc/self/mountinfo'))
  const on = mount === undefined ? '' : ` on ${mount.type} (${mount.point})`
  const free = bavail * bsize
  const detail = `${sizeText(free)} of ${sizeText(blocks * bsize)} free${on}`
  const findings = [roomFinding(free, blocks * bsize, detail)]
  if (files > 0 && ffree < INODES_LOW)
    findings.push(
      warning('disk', `room for ${ffree} more files`, 'Remove files, or make a larger file system.'),
    )
  if (mount === undefined) return findings
  const kind = FILE_SYSTEMS.find(([type]) => type.test(mount.type))
  if (kind !== undefined) findings.push(warning('file system', `${mount.type}: ${kind[1]}`, kind[2]))
  if (mount.isReadOnly)
    findings.push(
      warning('file system', `${mount.point} is mounted for reading`, 'Serve the folder with --read-only.'),
    )
  return findings
}

export function roomFinding(free: number, all: number, detail: string): Finding {
  if (free < FREE_LEAST_BYTES)
    return failed(
      'disk',
      detail,
      'Free space: writes are refused when the next segment of the log does not fit.',
    )
  if (free < all * FREE_LOW_SHARE) return warning('disk', detail, 'Free space, or set --retain-bytes.')
  return ok('disk', detail)
}

/** The file system that a path lies on. `mountinfo`: the text of the file of this name. */
export function mountOf(
  place: string,
  mountinfo: string,
): { readonly point: string; readonly type: string; readonly isReadOnly: boolean } | undefined {
  let found: { point: string; type: string; isReadOnly: boolean } | undefined
  for (const line of mountinfo.split('\n')) {
    const [fields = '', rest = ''] = line.split(' - ')
    const [, , , , escapedPoint, options = ''] = fields.split(' ')
    const [type = '', , superOptions = ''] = rest.split(' ')
    if (escapedPoint === undefined) continue
    const point = escapedPoint.replace(/\\(\d{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    )
    const isAbove = place === point || place.startsWith(point.endsWith('/') ? point : `${point}/`)
    // A later mount on the same point hides an earlier one.
    if (!isAbove || (found !== undefined && point.length < found.point.length)) continue
    const isReadOnly = [options, superOptions].some((list) => list.split(',').includes('ro'))
    found = { point, type, isReadOnly }
  }
  return found
}

/** How long a durable write of one block takes, as a commit under `--fsync always` writes it. */
function syncFindings(place: string): Finding[] {
  if (!canWrite(place)) return [note('sync', 'not measured, because this user cannot write there')]
  const times = syncTimes(place)
  times.sort((a, b) => a - b)
  const at = (share: number): number => times[Math.min(times.length - 1, Math.floor(times.length * share))]!
  const [median, late, last] = [at(0.5), at(0.99), times.at(-1)!]
  const detail = `a durable write takes ${timeText(median)} (p50), ${timeText(late)} (p99), at most ${timeText(last)} of ${times.length}`
  if (median <= SYNC_SLOW_MS) return [ok('sync', detail)]
  return [
    warning(
      'sync',
      detail,
      'Every commit waits for one. Use a faster disk, or --fsync interval, which a crash may cost a second of epochs.',
    ),
  ]
}

function syncTimes(place: string): number[] {
  const { O_CREAT, O_EXCL, O_RDWR, O_DSYNC } = fs.constants
  const file = path.join(place, `.mmsb-doctor-${process.pid}.tmp`)
  const fd = fs.openSync(file, O_CREAT | O_EXCL | O_RDWR | O_DSYNC, 0o600)
  try {
    fs.unlinkSync(file)
    const block = Buffer.alloc(SYNC_BYTES)
    // As in the log, the blocks are there before they are written, and the first write is not counted.
    fs.writeSync(fd, Buffer.alloc(SYNCS_MAX * SYNC_BYTES), 0, SYNCS_MAX * SYNC_BYTES, 0)
    const times: number[] = []
    const endMs = performance.now() + SYNCS_MAX_MS
    for (let i = 0; i < SYNCS_MAX && (i === 0 || performance.now() < endMs); i++) {
      const beganMs = performance.now()
      fs.writeSync(fd, block, 0, SYNC_BYTES, i * SYNC_BYTES)
      times.push(performance.now() - beganMs)
    }
    return times
  } finally {
    fs.closeSync(fd)
  }
}
