/** Frames of senders that may not do everything. */
import { type CreatePageCommand, commandAt, eachCommand, type Frame } from '../../state/frame/frame.js'
import { decodeFrame } from '../../state/frame/reader.js'
import { restamp } from '../../state/frame/restamp.js'
import { COMMAND_CREATE_PAGE, COMMAND_DELETE_PAGE, COMMAND_DELTA } from '../../wire/frame.js'
import type { Registry } from '../pages/registry.js'
import type { FrameAccess } from '../types.js'

/** The frame as it is kept: under the sender's own key and source. */
export function keptFrame({ bytes, key, source }: Frame, access: FrameAccess): Frame {
  const ownKey = key === undefined ? undefined : access.keyOf(key)
  return decodeFrame(restamp(bytes, { key: ownKey, source: access.sourceOf(source) }))
}

/** Tells the pages that a frame creates or deletes, and with `withWrites` those that it writes. */
export function tellPages(
  frame: Frame,
  registry: Registry,
  withWrites: boolean,
  saw: (page: string) => void,
): void {
  eachCommand(frame, (cursor) => {
    if (cursor.type === COMMAND_CREATE_PAGE) saw((commandAt(frame, cursor) as CreatePageCommand).name)
    else if (cursor.type === COMMAND_DELETE_PAGE || (withWrites && cursor.type === COMMAND_DELTA))
      saw(registry.byId(cursor.pageId)?.name ?? `#${cursor.pageId}`)
  })
}

/** Throws FORBIDDEN or PAGE_NOT_FOUND unless the sender may do all that the frame does. */
export function refuseFrame(frame: Frame, access: FrameAccess, registry: Registry): void {
  const demand = (verb: 'read' | 'write' | 'define', id: number): void =>
    access.require(verb, registry.byId(id)?.name, id)
  for (const { pageId } of frame.preconditions) demand('read', pageId)
  eachCommand(frame, (cursor) => {
    if (cursor.type === COMMAND_DELTA) demand('write', cursor.pageId)
    else if (cursor.type === COMMAND_DELETE_PAGE) demand('define', cursor.pageId)
    else if (cursor.type === COMMAND_CREATE_PAGE) {
      const { name, id } = commandAt(frame, cursor) as CreatePageCommand
      access.require('define', name, id)
    }
  })
}
