//! The tests of other themes that matter for keys, run once more with every key in a real gnome-keyring. A home that
//! then leaves an encrypted file or a master key behind fails its test.

use thv_e2e::{Desktop, Result, need_keyring};

macro_rules! again {
    ($($theme:ident: $($test:ident)*;)*) => {
        $(mod $theme {
            $(#[test]
            fn $test() -> super::Result {
                super::in_a_session(crate::$theme::$test)
            })*
        })*
    };
}

fn in_a_session(test: fn() -> Result) -> Result {
    need_keyring!();
    Desktop::unlocked()?.around(test)
}

again! {
    life:
        a_whole_life_with_real_servers_twice_in_a_row
        two_workloads_serve_three_bridges_at_once
        fifty_runs_and_removals_at_once_on_ten_names
        what_is_there_is_not_run_twice
        a_failed_run_shows_the_last_words_and_leaves_nothing
        a_workload_is_locked_and_unlocked_without_losing_its_client
        several_are_stopped_started_and_removed_together;
    sdk:
        the_sdk_lists_and_calls_over_the_bridge_and_leaves_cleanly
        ten_calls_at_once_get_an_answer_each
        errors_reach_the_sdk_as_the_server_gave_them
        a_call_cancelled_at_once_leaves_the_session_usable
        a_cancelled_call_is_cancelled_at_the_server
        the_sdk_calls_the_port_itself_with_the_key
        without_the_key_the_sdk_is_told_the_way_in;
    leaks:
        after_a_busy_day_the_key_is_nowhere
        the_log_tells_of_each_attempt_without_the_key
        a_server_cannot_tell_what_it_was_never_given;
    lifecycle:
        a_name_is_given_once_whatever_its_case
        ctrl_c_stops_and_start_brings_back_key_and_port
        rm_ends_a_workload_and_takes_its_key_and_files
        rm_of_several_reports_the_missing_and_removes_the_rest
        a_killed_supervisor_takes_its_servers_along_and_can_be_started_again;
    listing:
        a_key_is_shown_to_those_who_say_so
        a_workload_without_a_lock_says_that_it_is_open;
    recovery:
        after_a_reboot_a_bridge_starts_it_with_the_environment_of_its_run
        three_bridges_at_once_start_one_supervisor
        what_the_user_stopped_stays_stopped
        a_bridge_that_must_not_start_it_says_what_does
        the_end_of_the_login_is_no_wish_of_the_user
        a_live_bridge_follows_to_a_new_port_when_a_stranger_has_the_old_one
        a_server_that_does_not_come_up_again_is_told_of_with_its_last_words;
    relay:
        a_supervisor_that_was_restarted_is_found_again_with_a_fresh_session
        a_supervisor_that_was_killed_is_found_again_as_well
        a_workload_made_anew_under_a_live_bridge_is_reached_with_its_new_key
        a_workload_that_was_removed_under_a_live_bridge_is_said_to_be_gone;
    killed:
        a_run_killed_before_its_go_leaves_nothing_to_the_next_command
        a_run_killed_after_its_go_has_done_its_work
        a_failed_run_killed_while_it_tidies_up_is_tidied_up_by_the_next_command
        an_rm_killed_after_any_step_is_finished_by_the_next_command
        a_start_killed_after_any_step_can_be_repeated
        an_interrupted_run_leaves_nothing
        a_restart_killed_half_way_leaves_a_workload_that_is_wanted;
    keys:
        nothing_but_exactly_one_live_key_opens_the_door
        every_text_form_of_the_key_opens_the_door
        the_key_of_one_workload_opens_and_proves_no_other;
    far_end:
        a_key_that_is_unknown_over_there_is_read_again_once;
}

mod http {
    use crate::http::{endpoints, keys};

    #[test]
    fn fields_are_added_and_secrets_among_them_are_seen_by_the_server_alone() -> super::Result {
        super::in_a_session(endpoints::fields_are_added_and_secrets_among_them_are_seen_by_the_server_alone)
    }

    #[test]
    fn a_server_that_checks_its_key_is_reached_through_the_lock_alone() -> super::Result {
        super::in_a_session(keys::a_server_that_checks_its_key_is_reached_through_the_lock_alone)
    }
}
