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
  /** The next connection over which the server sends so many bytes passes nothing on from then on. */
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
  let bytesLeft = Number.POSITIVE_INFINITY
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
    let isDead = false
    far.on('data', (chunk) => {
      bytesLeft -= chunk.length
      if (bytesLeft > 0) return
      bytesLeft = Number.POSITIVE_INFINITY
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
      bytesLeft = bytes
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
