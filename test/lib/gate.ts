/** A promise that the test settles. */
export class Gate {
  readonly promise: Promise<void>
  open!: () => void
  fail!: (error: Error) => void

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.open = resolve
      this.fail = reject
    })
    this.promise.catch(() => {})
  }

  wait = (): Promise<void> => this.promise
}
