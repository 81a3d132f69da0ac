//! A Lua state that evaluates expressions, on the C API.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

type RawState = c_void;

extern "C" {
    fn luaL_newstate() -> *mut RawState;
    fn luaL_openlibs(state: *mut RawState);
    fn luaL_loadstring(state: *mut RawState, code: *const c_char) -> c_int;
    fn luaL_tolstring(state: *mut RawState, index: c_int, len: *mut usize) -> *const c_char;
    fn lua_pcallk(
        state: *mut RawState,
        args: c_int,
        results: c_int,
        handler: c_int,
        context: isize,
        continuation: *const c_void,
    ) -> c_int;
    fn lua_settop(state: *mut RawState, index: c_int);
    fn lua_close(state: *mut RawState);
}

/// An interpreter of its own.
pub struct LuaState {
    raw: *mut RawState,
}

impl LuaState {
    /// Nothing if there is no memory for one.
    pub fn new() -> Option<LuaState> {
        // SAFETY: takes no arguments; a null result is checked before it is used.
        let raw = unsafe { luaL_newstate() };
        if raw.is_null() {
            return None;
        }
        // SAFETY: `raw` is a live state.
        unsafe { luaL_openlibs(raw) };
        Some(LuaState { raw })
    }

    /// The value of an expression as text, or Lua's message.
    pub fn eval(&mut self, expression: &str) -> Result<String, String> {
        let code = CString::new(format!("return tostring({expression}\n)")).map_err(|error| error.to_string())?;
        // SAFETY: `raw` is live until drop and `code` until the end of this function; the one value on the stack,
        // a string or a message, is copied before the stack is cleared.
        unsafe {
            let mut status = luaL_loadstring(self.raw, code.as_ptr());
            if status == 0 {
                status = lua_pcallk(self.raw, 0, 1, 0, 0, std::ptr::null());
            }
            let text = CStr::from_ptr(luaL_tolstring(self.raw, -1, std::ptr::null_mut()));
            let text = text.to_string_lossy().into_owned();
            lua_settop(self.raw, 0);
            if status == 0 { Ok(text) } else { Err(text) }
        }
    }
}

impl Drop for LuaState {
    fn drop(&mut self) {
        // SAFETY: made by `new`, closed only here.
        unsafe { lua_close(self.raw) }
    }
}

#[cfg(test)]
mod tests {
    use super::LuaState;

    fn check(expression: &str, expected: Result<&str, &str>) {
        let mut state = LuaState::new().expect("memory");
        match (state.eval(expression), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{expression}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{expression}: {found}"),
            (found, expected) => panic!("{expression}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn expressions_have_values() {
        check("1 + 2", Ok("3"));
        check("('ab'):rep(3)", Ok("ababab"));
        check("nil", Ok("nil"));
    }

    #[test]
    fn errors_are_told() {
        check("1 +", Err("unexpected symbol"));
        check("nil .. 'x'", Err("attempt to concatenate"));
        check("'\0'", Err("nul byte"));
    }
}
