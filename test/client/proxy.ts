/** A TCP proxy in front of a server, whose connections a test can cut or freeze. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface CuttingProxy {
  readonly url: string
  /** Cuts every connection at once, in the middle of its data. Returns their number. */
  cut(): number
  /** Accepts connections but passes nothing on, in either direction. */
  freeze(): void
  /** Passes data again; cuts the connections that were frozen. */
  thaw(): void
  /**
   * Of the connections made from now on, the first over which the server sends so many bytes passes
   * nothing more on.
   */
  freezeOneAfter(bytes: number): void
  /** Refuses new connections, as a server that is down does. */
  isDown: boolean
  /** The port that new connections are passed to. */
  target: number
  readonly accepted: number
  /** New connections that were refused. */
  readonly refused: number
}

export async function startProxy(t: Test, port: number): Promise<CuttingProxy> {
  const pairs = new Set<readonly [Socket, Socket]>()
  let isFrozen = false
  let accepted = 0
  let refused = 0
  /** What freezeOneAfter asked for: how many connections there had been by then, and the bytes. */
  let freezing: { readonly accepted: number; readonly bytes: number } | undefined
  let isDown = false
  let target = port
  const cut = (): number => {
    const count = pairs.size
    for (const pair of pairs) for (const socket of pair) socket.destroy()
    return count
  }
  const server = createServer((near) => {
    if (isDown) {
      refused++
      near.destroy()
      return
    }
    accepted++
    const far = connect(target, '127.0.0.1')
    const pair = [near, far] as const
    pairs.add(pair)
    const number = accepted
    let bytes = 0
    let isDead = false
    far.on('data', (chunk) => {
      bytes += chunk.length
      if (freezing === undefined || number <= freezing.accepted || near.destroyed || bytes < freezing.bytes)
        return
      freezing = undefined
      isDead = true
    })
    for (const [from, to] of [pair, [far, near] as const]) {
      from.setNoDelay(true)
      from.on('data', (chunk) => {
        if (!isFrozen && !isDead) to.write(chunk)
      })
      from.on('end', () => to.end())
      from.on('error', () => to.destroy())
      from.on('close', () => {
        to.destroy()
        pairs.delete(pair)
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    cut()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut,
    freeze: () => {
      isFrozen = true
    },
    thaw: () => {
      isFrozen = false
      cut()
    },
    freezeOneAfter: (bytes) => {
      freezing = { accepted, bytes }
    },
    get accepted() {
      return accepted
    },
    get refused() {
      return refused
    },
    get target() {
      return target
    },
    set target(to: number) {
      target = to
    },
    get isDown() {
      return isDown
    },
    set isDown(is: boolean) {
      isDown = is
    },
  }
}
