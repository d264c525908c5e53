! A Fortran program that appends its records itself: gfortran -o report report.f90 && theorbo run -- ./report
!
! One record is RS, JSON, LF, appended by one write to the rank's file in the spool. Fortran's own files do not append
! as the spool wants it (several processes share the file), so C's fopen with mode 'a' does.
module bus
    use iso_c_binding
    implicit none
    type(c_ptr), private :: file = c_null_ptr
    interface
        type(c_ptr) function fopen(path, mode) bind(c)
            import; character(kind=c_char), intent(in) :: path(*), mode(*)
        end function
        integer(c_int) function fputs(text, file) bind(c)
            import; character(kind=c_char), intent(in) :: text(*); type(c_ptr), value :: file
        end function
        integer(c_int) function fflush(file) bind(c)
            import; type(c_ptr), value :: file
        end function
    end interface
contains
    subroutine emit(kind, fields)           ! call emit('progress', '"done":3,"total":10')
        character(*), intent(in) :: kind, fields
        character(1000) :: spool, rank
        character(40) :: time
        integer :: status
        if (.not. c_associated(file)) then
            call get_environment_variable('THEORBO_SPOOL', spool)
            call get_environment_variable('THEORBO_RANK', rank)
            file = fopen(trim(spool)//'/rank-'//trim(rank)//'.rec'//c_null_char, 'a'//c_null_char)
            if (.not. c_associated(file)) return
        end if
        call unix_time(time)
        status = fputs(achar(30)//'{"kind":"'//kind//'","time":'//trim(time)//','//fields//'}'//achar(10) &
            //c_null_char, file)
        status = fflush(file)               ! one write, if the record is shorter than 4096 bytes
    end subroutine

    subroutine unix_time(text)
        character(*), intent(out) :: text
        integer(c_long) :: seconds
        interface
            integer(c_long) function c_time(nothing) bind(c, name='time')
                import; type(c_ptr), value :: nothing
            end function
        end interface
        seconds = c_time(c_null_ptr)
        write (text, '(i0)') seconds
    end subroutine
end module

program main
    use bus
    call emit('progress', '"done":3,"total":10,"unit":"cycles"')
    call emit('log', '"level":"INFO","text":"from Fortran"')
end program
